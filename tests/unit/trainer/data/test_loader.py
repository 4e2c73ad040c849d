"""Batches that processes make ahead are those that the rank makes itself, in order, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from galley.config.rules.recipe import recipe_problems
from galley.schema import Data, Recipe, Task, Train
from tests.integration.train.tiny import tiny_recipe
from tests.integration.train.tiny_task import TinyTask
from trainer.data.batches import BatchPlan
from trainer.data.loader import Ahead, Inputs, Share, StepInputs

SHARE = Share(rank=1, world_size=2, micro_size=2, accumulation=2, even=False)
STEPS = 12


class Noting(TinyTask):
    """Adds the step and the process to every batch."""

    def collate(self, samples: Any) -> Any:
        batch = super().collate(samples)
        assert self.step is not None
        return {**batch, "step": torch.tensor([self.step] * len(samples)), "pid": torch.tensor([os.getpid()])}


@contextmanager
def loading(workers: int, first: int = 0) -> Iterator[tuple[BatchPlan, Ahead, StepInputs]]:
    task = Noting(tiny_recipe())
    train = task.datasets(lambda: closing(open(os.devnull))).train  # noqa: PTH123, SIM115
    plan = BatchPlan(train.lengths, 7, 8, True)
    with closing(Ahead(plan, first, STEPS, workers)) as ahead:
        yield plan, ahead, StepInputs(task, train, plan.lengths, SHARE)


def made(workers: int, first: int = 0, halve_at: int | None = None) -> list[Inputs]:
    """All steps' inputs; at `halve_at` memory runs out, and the step is asked for again."""
    with loading(workers, first) as (plan, ahead, inputs):
        found, batches = [], plan.from_step(first)
        for step in range(first, STEPS):
            batch = next(batches)
            one = ahead.take(batch, inputs)
            if step == halve_at:
                inputs = StepInputs(
                    inputs._task, inputs._train, plan.lengths, replace(SHARE, micro_size=1, accumulation=4)
                )
                one = ahead.take(batch, inputs)
            found.append(one)
        return found


def same(first: list[Inputs], second: list[Inputs]) -> bool:
    flat = [
        [(name, tensor) for step in steps for batch, weights in step
         for name, tensor in [*batch.items(), ("weights", weights)] if name != "pid"]
        for steps in (first, second)
    ]  # fmt: skip
    return len(flat[0]) == len(flat[1]) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(*flat, strict=True)
    )


@pytest.mark.parametrize("options", [{}, {"first": 5}, {"halve_at": 3}, {"first": 2, "halve_at": 2}])
def test_the_batches_are_the_same(options: dict[str, int]) -> None:
    own, ahead = made(0, **options), made(2, **options)
    assert same(own, ahead)
    assert [int(step[0][0]["step"][0]) for step in own] == list(range(options.get("first", 0), STEPS))
    assert {int(batch["pid"]) for step in own for batch, _ in step} == {os.getpid()}
    assert os.getpid() not in {int(batch["pid"]) for step in ahead for batch, _ in step}


def test_an_early_end_leaves_no_process() -> None:
    with loading(2) as (plan, ahead, inputs):
        first = ahead.take(next(plan.from_step(0)), inputs)
        pid = int(first[0][0]["pid"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stream_is_read_by_the_rank() -> None:
    streaming = Recipe(
        task=Task("causal_lm"), data=Data(streaming=True, loader_workers=1), train=Train(max_steps=3)
    )
    assert "data.loader_workers" in [problem.where for problem in recipe_problems(streaming)]
