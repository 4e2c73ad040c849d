"""Texts cut for language modeling: every token once, separators, gaps to fill, and counts in the log."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.data.roles import Table
from galley.errors import ConfigError
from tests.support import make_recipe
from trainer.data.language import Preparation, TextEncoder, evaluation_windows, training_samples
from trainer.data.store import ArrowDataset
from trainer.data.tokenize.packing import FillInTheMiddle, pieces, windows
from trainer.models.characters import character_tokenizer
from trainer.tasks.language_modeling import CausalLM, MaskedLM

TEXTS = ["to be or not to be", "that is", "x", "  ", "the question whether it is nobler"]
END = 0
FIM = {"prefix": 1001, "middle": 1002, "suffix": 1003, "seed": 5}


def encoder(size: int = 8, packing: bool = True, separator: int | None = END, stride: int = 8) -> TextEncoder:
    preparation = Preparation(size, packing, separator, special=False, stride=stride)
    return TextEncoder(character_tokenizer(TEXTS), preparation, 0)


def ids(dataset: ArrowDataset) -> list[list[int]]:
    return [row["input_ids"].tolist() for row in dataset.rows(range(len(dataset)))]


def contexts(dataset: ArrowDataset) -> list[int]:
    return [int(row["context"]) for row in dataset.rows(range(len(dataset)))]


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 40))
def test_windows_measure_every_token_once_with_all_the_context_there_is(
    length: int, size: int, stride: int
) -> None:
    stride = min(stride, size)
    found = list(windows(length, size, stride))
    measured = [place for window in found for place in range(window.start + window.context, window.end)]
    assert measured == list(range(length))
    assert all(window.end - window.start <= size for window in found)
    # Whoever is measured behind the first window has at least size - stride tokens before it.
    assert all(window.context >= size - stride for window in found[1:])


@given(st.lists(st.lists(st.integers(2, 50), max_size=9), max_size=9), st.integers(2, 7))
def test_packing_loses_at_most_one_token(texts: list[list[int]], size: int) -> None:
    sequences = [np.array([*text, END], dtype=np.uint32) for text in texts]
    whole = [token for sequence in sequences for token in sequence.tolist()]
    cut = pieces(sequences, size)
    joined = [token for piece in cut for token in piece.tolist()]
    assert joined == whole[: len(joined)]
    assert len(whole) - len(joined) == (1 if len(whole) % size == 1 else 0)
    assert all(len(piece) == size for piece in cut[:-1])


def test_packed_texts_end_with_a_separator_and_blank_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, made = Table({"text": TEXTS}, "train.txt"), encoder()
    with caplog.at_level(logging.INFO, "galley"):
        found = ids(training_samples(table, made, tmp_path))
    kept = [text for text in TEXTS if text.strip()]
    expected = [token for text in kept for token in [*character_tokenizer(TEXTS).encode(text), END]]
    joined = [token for piece in found for token in piece]
    assert joined == expected[: len(joined)]
    assert joined.count(END) >= len(kept) - 1
    assert "train.txt: 1 empty texts are left out" in caplog.messages
    assert f"train.txt: 4 texts, {len(expected)} tokens" in caplog.messages


def test_texts_that_are_not_packed_are_truncated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoder(packing=False, separator=None)
    with caplog.at_level(logging.WARNING, "galley"):
        found = ids(training_samples(Table({"text": TEXTS}, "train.txt"), made, tmp_path))
    long = [character_tokenizer(TEXTS).encode(text)[:8] for text in (TEXTS[0], TEXTS[1], TEXTS[4])]
    assert found == long  # a text of one token has nothing to predict
    assert "train.txt: 2 texts are longer than 8 tokens: truncated" in caplog.messages


def test_evaluation_windows_slide_over_the_joined_texts(tmp_path: Path) -> None:
    table, made = Table({"text": TEXTS}, "dev.txt"), encoder(stride=3)
    dataset = evaluation_windows(table, made, tmp_path)
    kept = [text for text in TEXTS if text.strip()]
    whole = [token for text in kept for token in [*character_tokenizer(TEXTS).encode(text), END]]
    measured = [
        token
        for tokens, context in zip(ids(dataset), contexts(dataset), strict=True)
        for token in tokens[context:]
    ]
    assert measured == whole
    apart = evaluation_windows(table, encoder(packing=False, separator=None, stride=3), tmp_path)
    assert contexts(apart).count(0) == 3  # of each text of two tokens its own first window


def test_nothing_to_predict_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dev.txt: has no text of two tokens"):
        evaluation_windows(Table({"text": ["x"]}, "dev.txt"), encoder(separator=None), tmp_path)


@given(st.lists(st.integers(0, 999), max_size=30), st.floats(0, 1))
def test_filling_the_middle_keeps_every_token(tokens: list[int], spm_rate: float) -> None:
    fim = FillInTheMiddle(rate=1.0, spm_rate=spm_rate, **FIM)
    found = fim.apply(np.array(tokens, dtype=np.uint32)).tolist()
    assert sorted(found) == sorted([*tokens, 1001, 1002, 1003])
    assert found == fim.apply(np.array(tokens, dtype=np.uint32)).tolist()
    assert found[0] == FIM["prefix"]
    middle, suffix = found.index(1002), found.index(1003)
    if suffix == 1:  # P S suffix M prefix middle: where prefix ends follows from the seed alone
        rest = found[middle + 1 :] + found[2:middle]
    else:  # P prefix S suffix M middle
        rest = found[1:suffix] + found[middle + 1 :] + found[suffix + 1 : middle]
    assert rest == tokens


def test_as_many_texts_are_rearranged_as_the_rates_say() -> None:
    fim = FillInTheMiddle(rate=0.5, spm_rate=0.25, **FIM)
    kinds = Counter(
        "plain" if 1001 not in found else "spm" if found[1] == FIM["suffix"] else "psm"
        for found in (fim.apply(np.arange(n, n + 40, dtype=np.uint32)).tolist() for n in range(2000))
    )
    # An empty prefix makes one in forty of the others look alike.
    assert kinds["plain"] == pytest.approx(1000, abs=80)
    assert kinds["spm"] == pytest.approx(250 + 750 / 41, abs=60)
    untouched = np.arange(9, dtype=np.uint32)
    never = FillInTheMiddle(rate=0.0, spm_rate=0.5, **FIM)
    assert never.apply(untouched).tolist() == untouched.tolist()


SHORT = make_recipe(model={"architecture": "gpt2", "tokenizer": "characters"}, data={"max_length": 8})


def test_tokens_of_the_context_are_read_and_not_measured() -> None:
    task = CausalLM(make_recipe(SHORT, task={"kind": "causal_lm"}))
    task.tokenizer = character_tokenizer(TEXTS)
    samples = [
        {"input_ids": np.arange(5, 10, dtype=np.uint32), "context": 3},
        {"input_ids": np.arange(5, 8, dtype=np.uint32), "context": 0},
    ]
    batch = task.collate(samples)
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 9], [-100, 6, 7, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 8, 9]


def test_hidden_tokens_follow_from_the_seed_the_step_and_the_sample() -> None:
    hiding = {"kind": "masked_lm", "lm": {"mask_rate": 0.25}}
    task = MaskedLM(make_recipe(SHORT, task=hiding, model={"tokenizer": "embedded:minilm"}))
    task._prepare(None)
    tokens = np.array([101, *range(2000, 2040), 102], dtype=np.uint32)
    sample = {"input_ids": tokens, "context": 0}

    def hidden(step: int | None) -> list[int]:
        task.step = step
        return np.flatnonzero(task.example(sample)[1] != -100).tolist()

    assert hidden(None) == hidden(None)
    assert hidden(3) == hidden(3) != hidden(4)
    assert len(hidden(3)) == 10  # a quarter of forty; never the special ones
    assert not {0, 41} & {*hidden(3), *hidden(4), *hidden(None)}
