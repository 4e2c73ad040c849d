"""A BPE trained by the run: the same tokens from the same texts, every text comes back, streams have one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Data, Eval, Model, Recipe, Task, Train
from galley.schema.model import Bpe
from trainer.models.bpe import bpe_tokenizer
from trainer.models.characters import character_tokenizer
from trainer.tasks.language_modeling import CausalLM

TEXTS = ["def low(lower):\n    return lower", "def lowest(low):\n\treturn low + 1"] * 3
STRANGE = "naïve 😀\u2028 \x00 tab\t日本"


def test_equal_texts_give_equal_tokens_and_every_text_comes_back(tmp_path: Path) -> None:
    first, again = (bpe_tokenizer(TEXTS, 280, tmp_path / name) for name in "ab")
    assert first.get_vocab() == again.get_vocab()
    assert len(first) == 280
    for text in (*TEXTS, STRANGE):
        assert first.decode(first(text)["input_ids"]) == text
    assert first.convert_ids_to_tokens(0) == first.eos_token == "<|endoftext|>"
    other = bpe_tokenizer([*TEXTS, STRANGE * 9], 280, tmp_path / "a")
    assert other.get_vocab() != first.get_vocab()


def test_a_tokenizer_made_here_asks_for_no_segments(tmp_path: Path) -> None:
    """GPT-2 would add them to its embeddings as words; by itself Transformers 4.57 asks for them."""
    for tokenizer in (bpe_tokenizer(TEXTS, 280, tmp_path), character_tokenizer(TEXTS)):
        assert list(tokenizer("def low").keys()) == ["input_ids", "attention_mask"]


def test_its_first_merge_is_the_pair_that_is_counted_most_often(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(["abab abab ab", "cb"], 258, tmp_path)
    assert tokenizer.convert_ids_to_tokens(257) == "ab"


def task(tmp_path: Path, **data: bool) -> CausalLM:
    model = Model(architecture="gpt2", tokenizer="bpe", bpe=Bpe(300, 5))
    read = Data(name="embedded:pydoc_text", max_length=16, cache_dir=str(tmp_path), **data)
    return CausalLM(Recipe(model=model, data=read, task=Task("causal_lm"), eval=Eval(enabled=False),
                           train=Train(max_steps=2)))  # fmt: skip


def test_a_stream_and_a_prepared_split_have_the_tokens_of_their_first_texts(tmp_path: Path) -> None:
    whole, streamed = task(tmp_path), task(tmp_path, streaming=True)
    for made in (whole, streamed):
        made.datasets(nullcontext)
        assert len(made.tokenizer) == 300
    assert whole.tokenizer.get_vocab() == streamed.tokenizer.get_vocab()


def test_a_run_that_only_measures_is_refused(tmp_path: Path) -> None:
    made = task(tmp_path)
    object.__setattr__(made.recipe.eval, "only", True)
    with pytest.raises(ConfigError, match="is trained by a run"):
        made.datasets(nullcontext)


def test_measuring_a_streamed_run_needs_no_number_of_steps() -> None:
    words = ["task=causal_lm", "data=pydoc_text", "data.streaming=true", "eval.only=true"]
    assert compose_recipe(words).train.max_steps is None
    with pytest.raises(ConfigError, match="a stream has no end"):
        compose_recipe([*words[:-1], "eval.only=false"])
