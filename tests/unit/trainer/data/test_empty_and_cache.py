"""Texts of which no token is left, and caches that cannot be written: one sentence, not a traceback."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Data, Launcher, Model, Recipe, Task
from trainer.tasks import make_task

ROWS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"text": "", "label": 0},
    "sequence_regression": {"text": "", "label": 0.5},
    "multi_label_classification": {"text": "", "label": [0]},
    "contrastive": {"anchor": "", "positive": "a"},
    "seq2seq": {"source": "", "target": "a"},
}
# GPT-2's tokenizer puts nothing around a text.
PLAIN = Model(
    architecture="bert", tokenizer="embedded:gpt2_bpe", config={"hidden_size": 16, "num_attention_heads": 2}
)


def write(folder: Path, row: dict[str, Any]) -> str:
    other = {name: "b" if isinstance(value, str) else value for name, value in row.items()}
    other |= {"label": 1} if row.get("label") == 0 else {}
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text(f"{json.dumps(other)}\n{json.dumps(row)}\n")
    return str(folder)


@pytest.mark.parametrize("kind", ROWS)
def test_a_text_without_a_token_is_refused_with_its_number(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(path=write(tmp_path, ROWS[kind]), max_length=8, cache_dir=str(tmp_path / "cache"))
    recipe = Recipe(task=Task(kind), model=PLAIN, data=data, batch=Batch(2))
    assert recipe_problems(recipe) == []
    from transformers import PreTrainedTokenizerBase

    monkeypatch.setattr(PreTrainedTokenizerBase, "pad_token_id", 0, raising=False)
    with pytest.raises(ConfigError) as caught:
        make_task(recipe).datasets(nullcontext)
    assert str(caught.value).replace("dev.jsonl", "train.jsonl") == (
        f"{tmp_path}/train.jsonl: 1 sample without a token: number 2\n"
        "    remove empty texts, or choose a tokenizer that puts special tokens around a text"
    )


def test_a_cache_that_cannot_be_made_is_said_before_the_launch_and_by_the_worker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    data = Data(path=write(tmp_path, {"text": "a", "label": 0}), cache_dir=str(folder))
    recipe = Recipe(model=Model(architecture="bert", tokenizer="embedded:minilm"), data=data, batch=Batch(2))
    (problem,) = recipe_problems(recipe)
    assert str(problem) == (
        f"data.cache_dir={folder}: cannot be made: {tmp_path}/file is a file\n    a folder that you may write"
    )
    elsewhere = Recipe(data=data, batch=Batch(2), launcher=Launcher(kind="slurm"))
    assert not [one for one in recipe_problems(elsewhere) if one.where.startswith("data")]
    with pytest.raises(ConfigError, match=r"the cache .*: cannot be made or written: Not a directory"):
        make_task(recipe).datasets(nullcontext)
