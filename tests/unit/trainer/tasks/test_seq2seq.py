"""What evaluation writes: as long, and repeating itself as little, as the recipe says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from galley.config.rules.recipe import recipe_problems
from galley.schema import Batch, Data, Model, Recipe, Task
from galley.schema.task import Seq2Seq
from trainer.models.build import load_tokenizer
from trainer.tasks.seq2seq import Seq2Seq as Seq2SeqTask

T5 = {"d_model": 16, "num_layers": 1, "d_ff": 16, "num_heads": 2, "d_kv": 8}


def written(**settings: Any) -> list[list[int]]:
    """Tokens that an untrained T5 writes for two sources, without the start and what fills them up."""
    model = Model(architecture="t5", tokenizer="embedded:gpt2_bpe", config=T5, dropout=0.0)
    recipe = Recipe(model=model, task=Task("seq2seq", seq2seq=Seq2Seq(max_target_length=12, **settings)))
    task = Seq2SeqTask(recipe)
    task.tokenizer = load_tokenizer(recipe, pad_with_end=True)
    batch = {"input_ids": torch.tensor([[5, 9, 7], [8, 3, 6]]), "attention_mask": torch.ones(2, 3).long()}
    rows = task.predict(task.model().eval(), batch).tolist()
    end = task.end_of_text
    return [[token for token in row[1:] if token != end] for row in rows]


def test_the_wording_is_that_of_the_recipe() -> None:
    plain = written()
    assert any(len({*pairwise(row)}) < len(row) - 1 for row in plain), "it repeats itself unless told not to"
    shaped = written(min_length=12, no_repeat_ngram=2, repetition_penalty=1.5, beams=2)
    for row in shaped:
        assert len(row) >= 11  # the start counts as one
        assert len({*pairwise(row)}) == len(row) - 1


def test_more_tokens_at_least_than_at_most_are_refused() -> None:
    task = Task("seq2seq", seq2seq=Seq2Seq(max_target_length=8, min_length=9))
    (problem,) = recipe_problems(Recipe(task=task, data=Data(name="embedded:pydoc_dialogue"), batch=Batch(8)))
    assert problem.where == "task.seq2seq.min_length"
    assert problem.hint == "valid: at most 8"
