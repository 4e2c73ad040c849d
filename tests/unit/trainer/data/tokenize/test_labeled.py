"""The tokenized cache: what is stored, when it is used, and when it is not believed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galley.data.splits import Split
from trainer.assets import minilm
from trainer.data.store import ArrowDataset
from trainer.data.tokenize.encoding import Tokenization, tokenization
from trainer.data.tokenize.labeled import content_key, tokenized

FIRST = ["one", "a longer sentence than that", "É 漢字 \N{GRINNING FACE}"]
SPLIT = Split((FIRST, ["two", "x", "y z"]), [0, 1, 1], "here")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm.folder())


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, nothing may be tokenized."""

    def refused(self: Tokenization, texts: Any) -> Any:
        raise AssertionError("tokenized again")

    return lambda: monkeypatch.setattr(Tokenization, "encode", refused)


def key_of(split: Split, tokenizer: Any, length: int) -> str:
    return content_key(split, tokenization(tokenizer, length))


def rows(dataset: ArrowDataset) -> list[Any]:
    return [
        (row["input_ids"].tolist(), row["token_type_ids"].tolist(), row["label"])
        for row in dataset.rows(range(len(dataset)))
    ]


def test_samples_are_what_the_tokenizer_gives_in_the_order_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    dataset = tokenized(SPLIT, tokenizer, 8, tmp_path)
    expected = [
        tokenizer(first, second, truncation=True, max_length=8, return_token_type_ids=True)
        for first, second in zip(*SPLIT.texts, strict=True)
    ]
    assert rows(dataset) == [
        (entry["input_ids"], entry["token_type_ids"], label)
        for entry, label in zip(expected, SPLIT.labels, strict=True)
    ]
    assert dataset.lengths.tolist() == [len(entry["input_ids"]) for entry in expected]
    assert dataset.lengths.dtype == np.int32
    assert max(dataset.lengths) == 8
    assert [row["label"] for row in dataset.rows([2, 0])] == [1, 0]


def test_single_sentences_have_one_segment(tokenizer: Any, tmp_path: Path) -> None:
    dataset = tokenized(Split((FIRST,), [0, 1, 1], "here"), tokenizer, 32, tmp_path)
    assert {value for row in rows(dataset) for value in row[1]} == {0}


def test_the_second_start_does_not_tokenize(
    tokenizer: Any, tmp_path: Path, no_tokens: Callable[[], None]
) -> None:
    first = tokenized(SPLIT, tokenizer, 16, tmp_path)
    no_tokens()
    again = tokenized(SPLIT, tokenizer, 16, tmp_path)
    assert rows(again) == rows(first)
    assert again.fingerprint == first.fingerprint


def test_the_key_changes_with_all_that_decides_the_tokens(tokenizer: Any) -> None:
    other = type(tokenizer).from_pretrained(minilm.folder())
    other.add_tokens(["quarterdeck"])
    left, split = (type(tokenizer).from_pretrained(minilm.folder()) for _ in range(2))
    left.truncation_side, split.split_special_tokens = "left", True
    changed = [
        key_of(replace(SPLIT, labels=[0, 1, 0]), tokenizer, 16),
        key_of(replace(SPLIT, texts=(["one "], *SPLIT.texts[1:])), tokenizer, 16),
        key_of(replace(SPLIT, texts=SPLIT.texts[::-1]), tokenizer, 16),
        key_of(replace(SPLIT, texts=SPLIT.texts[:1]), tokenizer, 16),
        key_of(SPLIT, tokenizer, 17),
        key_of(SPLIT, other, 16),
        key_of(SPLIT, left, 16),
        key_of(SPLIT, split, 16),
    ]
    same = key_of(SPLIT, tokenizer, 16)
    assert len({same, *changed}) == len(changed) + 1
    assert key_of(replace(SPLIT, where="elsewhere"), tokenizer, 16) == same


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_token(content: bytes) -> bytes:
    position = content.index(np.array([101], dtype=np.uint32).tobytes()) + 4
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", [cut, flip_a_token, lambda _: b"", lambda _: b"not an arrow file at all"])
def test_a_damaged_file_is_made_again_and_that_is_said(
    damage: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = rows(tokenized(SPLIT, tokenizer, 16, tmp_path))
    [path] = (tmp_path / "tokenized").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, "galley"):
        assert rows(tokenized(SPLIT, tokenizer, 16, tmp_path)) == good
    [record] = caplog.records
    assert record.getMessage().startswith(f"{path} is damaged (")
    assert path.read_bytes() == whole


def test_a_write_that_fails_leaves_nothing(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tokenized(SPLIT, tokenizer, 16, tmp_path)
    assert list((tmp_path / "tokenized").iterdir()) == []


def test_many_samples_survive_the_round_trip(
    tokenizer: Any, tmp_path: Path, no_tokens: Callable[[], None]
) -> None:
    texts = [f"number {n} " * (n % 7 + 1) for n in range(3000)]
    split = Split((texts,), [n % 2 for n in range(3000)], "here")
    tokenized(split, tokenizer, 64, tmp_path)
    no_tokens()
    again = tokenized(split, tokenizer, 64, tmp_path)
    assert again.rows([2999])[0]["input_ids"].tolist() == tokenizer(texts[2999])["input_ids"]
    assert int(again.lengths.sum()) == sum(len(ids) for ids in tokenizer(texts)["input_ids"])


def test_the_key_is_that_of_a_fresh_process_after_any_use_of_the_tokenizer(
    tokenizer: Any, tmp_path: Path
) -> None:
    used = type(tokenizer).from_pretrained(minilm.folder())
    fresh = key_of(SPLIT, used, 16)
    used(["a", "b c"], truncation=True, max_length=5, padding="max_length")
    assert key_of(SPLIT, used, 16) == fresh
