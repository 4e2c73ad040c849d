"""A training in parts, each a run of its own that goes on from the checkpoint of the one before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from galley.schema import Checkpoint, Optim, Schedule, Train
from tests.integration.train import tiny
from trainer.checkpoints.manifest import list_checkpoints, read_state

LAST, STOP = 8, 3


def part(stop: int | None, source: Path | None = None, strategy: str = "ddp", **changes: Any) -> Any:
    train = Train(epochs=1.0, max_steps=LAST, stop_at_step=stop, log_every_steps=1)
    checkpoint = Checkpoint(resume_from=str(source) if source else None)
    return tiny.tiny_recipe(strategy, train=train, checkpoint=checkpoint, **changes)


def rows(folder: RunFolder) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["lr"]) for row in folder.read_metrics() if "loss" in row]


def test_parts_are_the_whole_bit_for_bit_and_a_part_may_have_parameters_of_its_own(tmp_path: Path) -> None:
    """The schedule goes by all steps. Of other parameters the first loss is still that of the parent's
    weights; rate, decay and schedule are the child's own from its first step on."""
    whole = tiny.train(tmp_path / "whole", tiny.tiny_spec(part(None), 2))
    first = tiny.train(tmp_path / "first", tiny.tiny_spec(part(STOP), 2))
    result = first.read_result()
    assert (result.state, result.steps) == ("succeeded", STOP)
    assert result.message == "stopped at step 3 of 8, as train.stop_at_step says"
    (checkpoint,) = list_checkpoints(first.checkpoints)
    assert (checkpoint.name, read_state(checkpoint).total_steps) == ("step-000003", LAST)
    assert rows(first) == rows(whole)[:STOP]
    second = tiny.train(tmp_path / "second", tiny.tiny_spec(part(LAST, checkpoint), 2))
    assert rows(second) == rows(whole)[STOP:]
    assert tiny.largest_difference(tiny.weights(second), tiny.weights(whole)) == 0.0
    assert read_state(list_checkpoints(second.checkpoints)[-1]).step == LAST

    other = {"optim": Optim(lr=5e-3, weight_decay=0.1), "schedule": Schedule("constant")}
    child = tiny.train(tmp_path / "child", tiny.tiny_spec(part(LAST, checkpoint, **other), 2))
    assert rows(child)[0][:2] == rows(whole)[STOP][:2], "the parent's weights, samples and dropout"
    assert [lr for _, _, lr in rows(child)] == [5e-3] * (LAST - STOP)
    assert rows(child)[1][1] != rows(whole)[STOP + 1][1]


def test_a_part_of_another_strategy_has_its_own_rate_too(tmp_path: Path) -> None:
    """Of ZeRO, whose engine has an optimizer of its own, from the checkpoint of DDP."""
    quiet = {"TINY_DROPOUT": "0"}
    first = tiny.train(tmp_path / "first", tiny.tiny_spec(part(STOP), 2), **quiet)
    (checkpoint,) = list_checkpoints(first.checkpoints)
    optim = Optim(lr=5e-3, weight_decay=0.1, betas=(0.8, 0.99))
    found = []
    for strategy in ("ddp", "zero2"):
        recipe = part(LAST, checkpoint, strategy, optim=optim)
        found.append(tiny.train(tmp_path / strategy, tiny.tiny_spec(recipe, 2), **quiet))
    assert [row[2] for row in rows(found[0])] == [row[2] for row in rows(found[1])]
    assert tiny.losses(found[0]) == pytest.approx(tiny.losses(found[1]), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(found[0]), tiny.weights(found[1])) < 1e-4


def test_a_stop_that_is_never_reached_is_refused(tmp_path: Path) -> None:
    recipe = part(LAST)
    recipe = replace(recipe, train=replace(recipe.train, epochs=0.5))
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(recipe, 1)) == [2]
    (error,) = RunFolder(tmp_path).read_rank_errors(1)
    assert "train.stop_at_step=8: is never reached: train.epochs=0.5 ends the run at step 5" in error.message
