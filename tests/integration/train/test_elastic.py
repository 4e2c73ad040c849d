"""One run on a changing number of ranks: the global batch and the curve stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galley.run.relayout import relayout
from galley.schema import Batch, Checkpoint
from galley.spec import MovedSpec
from tests.integration.train import tiny
from tests.integration.train.test_portability import seen


@pytest.mark.parametrize("strategy", ["zero2", "fsdp"])
def test_two_ranks_then_one_then_four(tmp_path: Path, finished: Any, strategy: str) -> None:
    """18 steps: 6 on two ranks, 6 on the one that `resume` planned, 6 on four that agents started."""
    recipe = tiny.tiny_recipe(strategy, checkpoint=Checkpoint(every_steps=6))
    spec, root = tiny.tiny_spec(recipe, 2), tmp_path / "run"
    moved = MovedSpec.of(spec, relayout(recipe, spec.layout, 1))

    def traced(number: int, **more: str) -> dict[str, Any]:
        return {"TINY_DROPOUT": "0", "TINY_TRACE": str(tmp_path / f"trace-{number}"), **more}

    single = finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), TINY_DROPOUT="0")
    assert tiny.run_ranks(root, spec, **traced(1, TINY_KILL="8"))[-1] == -9
    # Alone, a step is two micro-batches.
    assert tiny.run_ranks(root, moved, 2, **traced(2, TINY_KILL="14")) == [-9]
    assert tiny.run_ranks(root, spec, 3, world_size=3, TINY_DROPOUT="0") == [2, 2, 2]
    error = tiny.RunFolder(root).read_rank_errors(3)[0]
    assert error.failure_class == "configuration"
    assert "global_size 8 = micro_size ? × accumulation ? × 3 ranks has no whole solution" in error.message
    folder = tiny.train(root, spec, 4, world_size=4, **traced(4))
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    result = folder.read_result()
    assert (result.world_size, result.resumed_from) == (4, "step-000012")
    assert result.batch == Batch(8, 2, 1)
    counts = seen(tmp_path / "trace-1", slice(6)) + seen(tmp_path / "trace-2", slice(12))
    counts += seen(tmp_path / "trace-4", slice(None))
    assert counts == dict.fromkeys(range(70), 2)


def test_two_ranks_that_are_not_one_job_never_train(tmp_path: Path) -> None:
    """Each believes to be alone: nobody said that the run may have fewer ranks."""
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2)
    assert tiny.run_ranks(tmp_path, spec, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0") == [2, 2]
    assert "1 ranks were started" in tiny.RunFolder(tmp_path).read_rank_errors(1)[0].message
