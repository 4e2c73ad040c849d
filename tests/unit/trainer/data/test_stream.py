"""Streams go on at any sample as if they had never stopped: files, parts, hub sets, mixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galley.errors import DataError
from galley.schema import Data, Source
from trainer.data.language import Preparation, TextEncoder
from trainer.data.stream import HubReader, SampleStream, ShuffledTexts, open_stream
from trainer.data.tokenize.packing import FillInTheMiddle
from trainer.models.characters import character_tokenizer

TEXTS = [f"text number {n} " * (n % 5 + 1) for n in range(40)]


def encoder(workers: int = 0, fim: FillInTheMiddle | None = None) -> TextEncoder:
    preparation = Preparation(16, packing=True, separator=0, special=False, stride=16, fim=fim)
    return TextEncoder(character_tokenizer(TEXTS), preparation, workers)


def write_parts(folder: Path) -> Path:
    folder.mkdir()
    for part in range(3):
        lines = [json.dumps({"text": text}) + "\n" for text in TEXTS[part::3]]
        (folder / f"train-{part}.jsonl").write_text("".join(lines))
    return folder


def hub(folder: Path) -> SampleStream:
    import datasets

    files = sorted(map(str, write_parts(folder).iterdir()))

    def load() -> Any:
        return datasets.load_dataset("json", data_files=files, streaming=True, cache_dir=str(folder))["train"]

    return SampleStream(ShuffledTexts(HubReader(load, Data(name="a/b")), 3, 7), encoder(), "hub")


def mixture(folder: Path) -> SampleStream:
    sources = [Source(path=str(write_parts(folder)), weight=3.0), Source(name="embedded:pydoc_text")]
    return open_stream(Data(mix=sources, shuffle_buffer=5), encoder(), 3)


def parts(folder: Path) -> SampleStream:
    fim = FillInTheMiddle(2, 3, 4, rate=0.5, spm_rate=0.5, seed=3)
    return open_stream(Data(path=str(write_parts(folder)), shuffle_buffer=7), encoder(fim=fim), 3)


@pytest.mark.parametrize("make", [parts, hub, mixture])
def test_from_any_position_on_the_samples_are_the_same(
    make: Callable[[Path], SampleStream], tmp_path: Path
) -> None:
    whole = make(tmp_path / "whole")
    expected, positions = [], []
    for index in range(400):  # beyond the first epoch
        positions.append(json.loads(json.dumps(whole.position(index))))
        expected.append(whole.rows([index])[0]["input_ids"].tolist())
    assert {len(tokens) for tokens in expected} == {16}
    for start in (0, 1, 50, 333):
        resumed = make(tmp_path / f"at-{start}")
        resumed.seek(start, positions[start])
        found = resumed.rows(range(start, start + 20))
        assert [row["input_ids"].tolist() for row in found] == expected[start : start + 20]


def test_every_epoch_holds_every_text_once_in_another_order(tmp_path: Path) -> None:
    from trainer.data.stream import FileReader

    shuffled = ShuffledTexts(FileReader(Data(path=str(write_parts(tmp_path / "d"))), 1), 1, window=7)
    read = [text for _, text in islice(shuffled.texts(None), 80)]
    assert sorted(read[:40]) == sorted(read[40:]) == sorted(TEXTS)
    assert read[:40] != read[40:]


def test_a_mixture_draws_by_weight(tmp_path: Path) -> None:
    stream = mixture(tmp_path / "d")
    drawn = [text.startswith("text number") for _, text in islice(stream._texts.texts(None), 2000)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.03)


def test_samples_that_were_passed_have_no_position_any_more(tmp_path: Path) -> None:
    stream = parts(tmp_path / "d")
    stream.rows([3, 9])
    with pytest.raises(ValueError, match="sample 9 was read"):
        stream.position(5)
    with pytest.raises(KeyError):
        stream.rows([2])


def test_a_source_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(DataError, match="has no text"):
        open_stream(Data(path=str(tmp_path)), encoder(), 1).rows([0])
