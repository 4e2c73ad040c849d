"""Words with tags: which piece stands for which word, also where a tokenizer drops words."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galley.schema import Data, Model, Recipe, Task
from trainer.assets import minilm
from trainer.data.tokenize.encoding import Tokenization, tokenization
from trainer.data.tokenize.tagged import IGNORED, first_pieces
from trainer.tasks.text import padded
from trainer.tasks.token_classification import TokenClassification

# What BERT's normalizer drops or takes for space: white space, control and format characters, U+FFFD.
DROPPED = [" ", "\t", "\n", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "\x00", "\x07"]
DROPPED += [
    "\N{ZERO WIDTH SPACE}",
    "\N{SOFT HYPHEN}",
    "\N{ZERO WIDTH NO-BREAK SPACE}",
    "\N{REPLACEMENT CHARACTER}",
]
DROPPED += ["\N{COMBINING ACUTE ACCENT}", "\N{RIGHT-TO-LEFT MARK}"]


@pytest.fixture(scope="module")
def bert() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm.folder())


@pytest.fixture(scope="module")
def bert_alone(bert: Any) -> Tokenization:
    return tokenization(bert, special=False)


def measured(tmp_path: Path, tokens: list[str], tags: list[str]) -> dict[str, float]:
    """Metrics of predictions that are right at every piece that has a tag."""
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"tokens": tokens, "tags": tags}) + "\n")
    model = Model(architecture="bert", tokenizer="embedded:minilm")
    data = Data(path=str(tmp_path), cache_dir=str(tmp_path / "cache"), max_length=32)
    task = TokenClassification(Recipe(model=model, data=data, task=Task("token_classification")))
    dataset = task.datasets(nullcontext).eval
    assert dataset is not None
    right = padded([row["labels"] for row in dataset.rows(range(len(dataset)))], IGNORED).numpy()
    return task.metrics(right, dataset)


@pytest.mark.parametrize("dropped", DROPPED, ids=ascii)
def test_a_word_without_a_piece_shifts_no_other(tmp_path: Path, dropped: str) -> None:
    tokens = ["Anna", dropped, "lives", "in", dropped, "Paris", "."]
    found = measured(tmp_path, tokens, ["B-PER", "O", "O", "O", "O", "B-LOC", "O"])
    assert (found["f1"], found["accuracy"]) == (1.0, 1.0)


def test_a_dropped_word_with_a_tag_of_its_own_counts_as_missed(tmp_path: Path) -> None:
    found = measured(tmp_path, ["Anna", " ", "Paris"], ["B-PER", "B-ORG", "B-LOC"])
    assert found["f1"] == pytest.approx(2 * 1.0 * (2 / 3) / (1 + 2 / 3))  # two of three, none wrong
    assert found["accuracy"] == pytest.approx(2 / 3)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(
        st.text(max_size=5) | st.sampled_from([*DROPPED, "", "Anna", "unaffable", "x."]), max_size=8
    )
)
def test_pieces_are_those_that_transformers_gives_to_each_word(
    bert: Any, bert_alone: Tokenization, words: list[str]
) -> None:
    """`word_ids` of words that are given one by one; BERT reads no word's neighbors."""
    [entry] = bert_alone.encode([" ".join(words)])
    expected, before = [], None
    for word in bert(words, is_split_into_words=True, add_special_tokens=False).word_ids() if words else []:
        expected.append(IGNORED if word == before else word)
        before = word
    assert first_pieces(entry.offsets, words).tolist() == expected


def test_a_space_that_is_a_piece_of_its_own_begins_no_word() -> None:
    """SentencePiece may give the space before a word a piece; the word before has none of its own."""
    assert first_pieces([(0, 1), (2, 3), (3, 4)], ["a", "", "b"]).tolist() == [0, IGNORED, 2]
    assert first_pieces([(0, 1), (1, 2), (1, 3), (0, 0)], ["a", "b"]).tolist() == [0, IGNORED, 1, IGNORED]


def test_of_words_that_are_cut_the_last_ones_keep_their_tags(bert: Any) -> None:
    bert.truncation_side = "left"
    words = ["one", "two", "three", "four"]
    [entry] = tokenization(bert, 4).encode([" ".join(words)])
    bert.truncation_side = "right"
    assert np.array_equal(first_pieces(entry.offsets, words), [IGNORED, 2, 3, IGNORED])
