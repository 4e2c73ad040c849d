"""Hard negatives: the loss is that of plain torch over all candidates, with and without a third text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from galley.schema import Data, Model, Recipe, Source, Task
from trainer.data.raw import read_tables
from trainer.tasks.contrastive import Contrastive

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TRIPLETS = [
    {"anchor": "a red car", "positive": "the car is red", "negative": "the car is blue"},
    {"anchor": "one two three", "positive": "four", "negative": "five six seven eight"},
]
PAIRS = [{"query": "who wrote it", "answer": "ada"}, {"query": "where is it", "answer": "in paris"}]


def folder(root: Path, rows: list[dict[str, str]]) -> str:
    root.mkdir()
    for split in ("train", "dev"):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)


def task_on(tmp_path: Path, *sources: list[dict[str, str]]) -> tuple[Contrastive, Any]:
    from contextlib import nullcontext

    mix = [Source(path=folder(tmp_path / str(number), rows)) for number, rows in enumerate(sources)]
    data = Data(mix=mix, one_source_batches=True, max_length=16, cache_dir=str(tmp_path / "cache"))
    model = Model(architecture="bert", tokenizer="embedded:minilm", config=TINY, dropout=0)
    task = Contrastive(Recipe(model=model, data=data, task=Task("contrastive")))
    return task, task.datasets(nullcontext).train


def embedding(task: Contrastive, model: Any, text: str) -> torch.Tensor:
    """One text by itself: the mean of its hidden states, of length 1."""
    found = task.tokenizer(text, return_tensors="pt")
    return normalize(model(**found).last_hidden_state.mean(1), dim=-1)[0]


def in_torch(task: Contrastive, model: Any, rows: list[dict[str, str]]) -> float:
    first = torch.stack([embedding(task, model, row.get("anchor", row.get("query", ""))) for row in rows])
    texts = [row.get("positive", row.get("answer", "")) for row in rows]
    texts += [row["negative"] for row in rows if "negative" in row]
    scores = 20 * first @ torch.stack([embedding(task, model, text) for text in texts]).T
    return cross_entropy(scores, torch.arange(len(rows)), reduction="sum").item()


@pytest.mark.parametrize("rows", [TRIPLETS, PAIRS, [TRIPLETS[0], PAIRS[0], TRIPLETS[1]]])
def test_every_partner_and_every_hard_negative_is_a_candidate(tmp_path: Path, rows: Any) -> None:
    task, train = task_on(tmp_path, TRIPLETS, PAIRS)
    model, every = task.model().eval(), TRIPLETS + PAIRS
    batch = task.collate(train.rows([every.index(row) for row in rows]))
    found = task.loss(model, batch, torch.ones(len(rows))).item()
    assert found == pytest.approx(in_torch(task, model, rows), rel=1e-5)


def test_a_sample_of_weight_0_is_no_candidate(tmp_path: Path) -> None:
    task, train = task_on(tmp_path, TRIPLETS, PAIRS)
    model = task.model().eval()
    batch = task.collate(train.rows([0, 1]))
    found = task.loss(model, batch, torch.tensor([1.0, 0.0])).item()
    assert found == pytest.approx(in_torch(task, model, TRIPLETS[:1]), rel=1e-5)


def test_samples_of_pairs_alone_have_two_texts(tmp_path: Path) -> None:
    task, train = task_on(tmp_path, PAIRS, PAIRS)
    assert task.collate(train.rows([0, 1]))["input_ids"].shape[1] == 2


def test_samples_know_their_source_and_sources_are_taken_whole(tmp_path: Path) -> None:
    _, train = task_on(tmp_path, TRIPLETS * 3, PAIRS)
    assert train.numbers("source").tolist() == [0] * 6 + [1] * 2


def test_a_table_without_the_optional_column_has_none(tmp_path: Path) -> None:
    from galley.tasks.contrastive import ROLES

    tables = read_tables(Data(path=folder(tmp_path / "a", PAIRS)), ROLES)
    assert list(tables["train"].columns) == ["text", "partner"]
