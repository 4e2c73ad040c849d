"""The key of stored samples: two tokenizers that make other tokens never share one, whatever the task."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Data, Model, Recipe, Task
from galley.schema.task import LanguageModeling, QuestionAnswering
from trainer.assets import minilm
from trainer.data.stream import SampleStream
from trainer.tasks import make_task

LONG = "zero one two three four five six seven eight nine ten eleven twelve"
ANSWER = {"answers": {"text": ["one"], "answer_start": [5]}}
ROWS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"sentence": LONG, "label": 1},
    "sequence_regression": {"sentence": LONG, "label": 1.5},
    "multi_label_classification": {"sentence": LONG, "label": [0, 1]},
    "token_classification": {"tokens": LONG.split(), "tags": ["O"] * 13},
    "question_answering": {"id": "1", "question": "which?", "context": LONG, **ANSWER},
    "contrastive": {"anchor": LONG, "positive": f"{LONG} more", "negative": f"no {LONG}"},
    "causal_lm": {"text": LONG},
    "masked_lm": {"text": LONG},
    "masked_lm_distillation": {"text": LONG},
    "seq2seq": {"source": LONG, "target": LONG},
}
LABEL = {"sequence_classification": 0, "sequence_regression": 0.5, "multi_label_classification": [1]}


def data_folder(tmp_path: Path, kind: str) -> Data:
    rows = [ROWS[kind], {**ROWS[kind], "id": "2", **({"label": LABEL[kind]} if kind in LABEL else {})}]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(tmp_path), cache_dir=str(tmp_path / "cache"), max_length=10)


def tokenizer_folder(tmp_path: Path, **settings: Any) -> Path:
    """MiniLM's tokenizer with other settings beside an unchanged tokenizer.json."""
    folder = tmp_path / "-".join(["tokenizer", *map(str, settings.values())]).replace("/", "_")
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((minilm.folder() / "tokenizer.json").read_bytes())
    written = json.loads((minilm.folder() / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**written, **settings}))
    return folder


def prepared(recipe: Recipe, tokenizer: Path) -> tuple[str, Any]:
    """Fingerprint and tokens of the training samples; of a stream the first one's."""
    named = replace(recipe, model=Model(architecture="bert", tokenizer=str(tokenizer)))
    train = make_task(named).datasets(nullcontext).train
    rows = train.rows([0] if isinstance(train, SampleStream) else range(len(train)))
    return train.fingerprint, [
        [row[name].tolist() for name in ("input_ids", "labels") if hasattr(row.get(name), "tolist")]
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
def test_the_side_of_truncation_is_in_the_key_and_in_the_tokens(tmp_path: Path, kind: str) -> None:
    lm = LanguageModeling(packing=False, separator=False)
    recipe = Recipe(
        data=data_folder(tmp_path, kind), task=Task(kind, lm=lm, qa=QuestionAnswering(doc_stride=1))
    )
    right = prepared(recipe, tokenizer_folder(tmp_path, truncation_side="right"))
    left = prepared(recipe, tokenizer_folder(tmp_path, truncation_side="left"))
    assert right[0] != left[0]
    assert right[1] != left[1]


def test_the_token_that_ends_a_target_is_in_the_key(tmp_path: Path) -> None:
    recipe = Recipe(data=data_folder(tmp_path, "seq2seq"), task=Task("seq2seq"))
    found = [prepared(recipe, tokenizer_folder(tmp_path, eos_token=end)) for end in ("[SEP]", "[MASK]")]
    assert found[0][0] != found[1][0]
    assert [tokens[0][1][-1] for _, tokens in found] == [102, 103]


@pytest.mark.slow
def test_the_separator_of_texts_is_in_the_key(tmp_path: Path) -> None:
    data = replace(data_folder(tmp_path, "causal_lm"), max_length=30)
    recipe = Recipe(data=data, task=Task("causal_lm"))
    found = [prepared(recipe, tokenizer_folder(tmp_path, eos_token=end)) for end in ("[SEP]", "[MASK]")]
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_stream_has_the_tokenizer_in_its_fingerprint(tmp_path: Path) -> None:
    data = replace(data_folder(tmp_path, "causal_lm"), streaming=True)
    recipe = Recipe(data=data, task=Task("causal_lm", lm=LanguageModeling(separator=False)))
    plain = tokenizer_folder(tmp_path, split_special_tokens=False)
    split = tokenizer_folder(tmp_path, split_special_tokens=True)
    assert prepared(recipe, plain)[0] != prepared(recipe, split)[0]
