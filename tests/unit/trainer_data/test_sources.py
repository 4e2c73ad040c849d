"""Where the samples come from, and how many of them are taken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.schema import Data
from trainer.data.sources import read_splits


def sorted_by_class(folder: Path) -> Data:
    body = "".join(f"text {n},{n // 10}\n" for n in range(30))
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text("text,label\n" + body)
    return Data(path=str(folder))


def test_the_embedded_pairs() -> None:
    splits = read_splits(Data())
    assert (len(splits.train.labels), len(splits.eval.labels), splits.num_labels) == (960, 240, 2)
    assert [len(column) for column in splits.train.texts] == [960, 960]


def test_max_samples_are_spread_over_a_sorted_file_and_keep_their_labels(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    splits = read_splits(Data(path=path, max_samples=6))
    assert splits.train.texts == ([f"text {n}" for n in (0, 5, 10, 15, 20, 25)],)
    assert splits.train.labels == splits.eval.labels == [0, 0, 1, 1, 2, 2]


def test_the_number_of_classes_does_not_depend_on_max_samples(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    assert read_splits(Data(path=path, max_samples=1)).num_labels == 3


def test_more_than_there_is_takes_all(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    assert read_splits(Data(path=path, max_samples=99)) == read_splits(Data(path=path))


def test_the_log_counts_what_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = sorted_by_class(tmp_path)
    with caplog.at_level(logging.INFO, "galley"):
        read_splits(Data(path=data.path, max_samples=3))
    assert caplog.messages[0] == (
        f"{tmp_path}/train.csv: 3 samples (1 of class 0, 1 of class 1, 1 of class 2)"
    )


def test_an_unknown_embedded_set_gets_the_valid_names() -> None:
    with pytest.raises(ConfigError) as caught:
        read_splits(Data(name="embedded:pydoc_pair"))
    assert str(caught.value) == (
        "data.name=embedded:pydoc_pair: is not embedded\n"
        "    did you mean 'pydoc_pairs'? valid: pydoc_pairs, pydoc_qa, pydoc_text, pydoc_dialogue"
    )
