"""Memory that runs out, by real allocations that fail: smaller micro-batches, the same training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Batch, Checkpoint, Task
from galley.spec import RunSpec
from tests.integration.train import tiny
from tests.support import REPO

NO_DROPOUT = {"TINY_DROPOUT": "0"}
# What a rank becomes when it starts again is a worker without the tests' patches.
AGAIN = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
AGAIN_LINE = "all ranks start again with micro_size 2"


def test_one_process_repeats_the_step_as_if_it_had_begun_with_less(tmp_path: Path) -> None:
    """With dropout: the repeated step has the samples and the random numbers of the first try."""
    spec = tiny.tiny_spec(tiny.tiny_recipe("single"), 1)
    less = tiny.train(tmp_path / "less", tiny.tiny_spec(spec.recipe, 1, accumulation=4))
    folder = tiny.train(tmp_path / "run", spec, TINY_MEMORY="2@0")
    assert folder.read_result().batch == less.read_result().batch == Batch(8, 2, 4)
    assert tiny.losses(folder) == tiny.losses(less)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(less)) == 0.0
    log = folder.rank_log(1, 0).read_text()
    assert "out of memory at step 0: going on with micro_size 4 × accumulation 2 × 1 ranks = 8" in log


def on_two_ranks(root: Path, strategy: str, every_steps: int | None) -> RunSpec:
    """With the task as a class of the user's own, for the worker without patches."""
    (root / "code/plugins").mkdir(parents=True)
    (root / "code/plugins/0").symlink_to(REPO)
    recipe = tiny.tiny_recipe(strategy, checkpoint=Checkpoint(every_steps=every_steps))
    task = Task("tests.integration.train.tiny_task:TinyTask")
    return tiny.tiny_spec(replace(recipe, task=task, plugins=[str(REPO)]), 2)


@pytest.fixture(scope="module")
def single(finished: Any) -> Any:
    return finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)


@pytest.mark.parametrize(("strategy", "every_steps"), [("ddp", None), ("fsdp", 4)])
def test_ranks_that_talk_in_the_backward_start_again_together(
    tmp_path: Path, single: tiny.RunFolder, strategy: str, every_steps: int | None
) -> None:
    """One of them runs out of memory in step 6; the attempt stays the first."""
    spec = on_two_ranks(tmp_path, strategy, every_steps)
    folder = tiny.train(tmp_path, spec, TINY_MEMORY="3@6", **NO_DROPOUT, **AGAIN)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    result = folder.read_result()
    assert (result.batch, result.attempts, result.steps) == (Batch(8, 2, 2), 1, 18)
    assert result.resumed_from == ("step-000004" if every_steps else None)
    assert AGAIN_LINE in folder.rank_log(1, 1).read_text()


def test_a_later_attempt_begins_with_what_was_found(tmp_path: Path, single: tiny.RunFolder) -> None:
    """Out of memory in step 6, killed after having started again, resumed with as little room."""
    spec, little = on_two_ranks(tmp_path, "zero2", 4), {"TINY_MEMORY": "3@0", **NO_DROPOUT}
    killed = {**little, "TINY_MEMORY": "3@6", "TINY_KILL": "8", **AGAIN}
    assert tiny.run_ranks(tmp_path, spec, **killed)[-1] == -9
    folder = tiny.train(tmp_path, spec, attempt=2, **little)
    assert AGAIN_LINE in folder.rank_log(1, 1).read_text()
    assert "out of memory" not in folder.rank_log(2, 1).read_text()
    result = folder.read_result()
    assert (result.batch, result.attempts, result.resumed_from) == (Batch(8, 2, 2), 2, "step-000004")
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4


def test_one_sample_that_is_too_much_fails_the_run_with_advice(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("ddp", batch=Batch(global_size=2))
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(recipe, 2), TINY_MEMORY="0@3")[-1] == 4
    errors = {error.rank: error for error in tiny.RunFolder(tmp_path).read_rank_errors(1)}
    assert errors[1].failure_class == "oom"
    assert "out of memory with one sample a rank at once" in errors[1].message
    assert "train.gradient_checkpointing=true" in errors[1].message
    assert errors[0].failure_class == "node"
