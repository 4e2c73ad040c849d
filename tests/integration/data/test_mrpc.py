"""The real MRPC files, from the folder to batches, cached and found again."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Data, Model, Recipe
from trainer.data.tokenize import labeled
from trainer.tasks import make_task


def recipe(path: Path, cache: Path, **data: Any) -> Recipe:
    """Columns as `recipe=mrpc_deberta` names them, after the hub."""
    columns = {"text_columns": ["sentence1", "sentence2"], "label_column": "label"}
    return Recipe(
        model=Model(name="embedded:minilm"),
        data=Data(path=str(path), cache_dir=str(cache), **{**columns, **data}),
    )


def test_mrpc_is_tokenized_once_and_completely(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(shared_dir / "data" / "mrpc", tmp_path)
    datasets = make_task(wanted).datasets(nullcontext)
    assert datasets.eval is not None
    assert (len(datasets.train), len(datasets.eval)) == (3668, 408)
    labels = Counter(row["label"] for row in datasets.eval.rows(range(408)))
    assert labels == {0: 129, 1: 279}
    assert 48 < datasets.train.lengths.mean() < 58
    assert datasets.train.lengths.max() <= 128

    def refuse(*_: Any) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(labeled, "_encode", refuse)
    again = make_task(wanted).datasets(nullcontext)
    assert again.train.fingerprint == datasets.train.fingerprint
    assert again.train.rows([3667])[0]["input_ids"].tolist() == (
        datasets.train.rows([3667])[0]["input_ids"].tolist()
    )


def test_the_text_of_a_sample_is_that_of_its_line(shared_dir: Path, tmp_path: Path) -> None:
    task: Any = make_task(recipe(shared_dir / "data" / "mrpc", tmp_path))
    train = task.datasets(nullcontext).train
    lines = (shared_dir / "data" / "mrpc" / "train.tsv").read_text(encoding="utf-8-sig").split("\n")
    for line in (1, 918, 1835, 2752):
        quality, _, _, first, second = lines[line].split("\t")
        row = train.rows([line - 1])[0]
        assert row["label"] == int(quality)
        assert row["input_ids"].tolist() == task.tokenizer(first, second)["input_ids"]


def test_folders_with_spaces_and_quotes_in_their_names(shared_dir: Path, weird_tmp_path: Path) -> None:
    source = weird_tmp_path / "data"
    source.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        shutil.copyfile(shared_dir / "data" / "mrpc" / name, source / name)
    wanted = recipe(source, weird_tmp_path / "cache", max_samples=32)
    datasets = make_task(wanted).datasets(nullcontext)
    assert len(datasets.train) == 32
    assert len(list((weird_tmp_path / "cache" / "tokenized").iterdir())) == 2


def test_single_sentences_of_sst2(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared_dir / "data" / "sst2" / "train_8k.tsv", tmp_path / "train.tsv")
    shutil.copyfile(shared_dir / "data" / "sst2" / "dev.tsv", tmp_path / "dev.tsv")
    columns: dict[str, Any] = {"text_columns": None, "label_column": None, "max_samples": 100}
    datasets = make_task(recipe(tmp_path, tmp_path / "cache", **columns)).datasets(nullcontext)
    assert len(datasets.train) == 100
    assert {int(n) for row in datasets.train.rows(range(100)) for n in row["token_type_ids"]} == {0}
