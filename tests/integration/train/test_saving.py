"""Checkpoints that are written while training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.schema import Checkpoint
from tests.integration.train import tiny
from tests.integration.train.test_failures import first_error
from trainer.checkpoints.manifest import latest_complete, list_checkpoints


def saving(strategy: str = "zero2", every_steps: int = 4, asynchronous: bool = True) -> tiny.RunSpec:
    checkpoint = Checkpoint(every_steps=every_steps, keep=9, asynchronous=asynchronous)
    return tiny.tiny_spec(tiny.tiny_recipe(strategy, checkpoint=checkpoint), 2)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for folder in list_checkpoints(root / "checkpoints") for path in folder.iterdir())
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


@pytest.mark.parametrize("strategy", ["zero2", "ddp"])
def test_training_goes_on_while_the_same_bytes_are_written(tmp_path: Path, strategy: str) -> None:
    """The first write ends only after two more steps have begun: the copy is of step 4 all the same."""
    waiting = tiny.train(tmp_path / "waiting", saving(strategy, asynchronous=False))
    touched = str(tmp_path / "touched")
    environ = {"TINY_WRITE": f"step-000004:AWAIT:{touched}", "TINY_TOUCH": "7", "TINY_TOUCHED": touched}
    going_on = tiny.train(tmp_path / "going on", saving(strategy), **environ)
    files = contents(tmp_path / "going on")
    assert len(files) == 4 * 4
    assert files == contents(tmp_path / "waiting")
    for folder in (waiting, going_on):
        rows = [row for row in folder.read_metrics() if "checkpoint/stall_s" in row]
        stalls = {row["step"]: row["checkpoint/stall_s"] for row in rows}
        assert list(stalls) == [4, 8, 12, 16]
        assert all(seconds > 0 for seconds in stalls.values())
    assert tiny.losses(going_on) == tiny.losses(waiting)


def test_killed_while_writing_it_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    environ = {"TINY_WRITE": "step-000008:AWAIT:nothing", "TINY_KILL": "11"}
    spec = saving()
    processes = tiny.start_ranks(tmp_path, spec, **environ)
    processes[1].join(60)
    assert processes[1].exitcode == -9
    processes[0].join(60)
    assert latest_complete(tmp_path / "checkpoints").folder == tmp_path / "checkpoints/step-000004"
    folder = tiny.train(tmp_path, spec, attempt=2)
    assert folder.read_result().resumed_from == "step-000004"
    assert not list((tmp_path / "checkpoints").glob(".step-*"))
    whole = tiny.train(tmp_path / "whole", spec)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(whole)) == 0.0


def test_a_disk_that_is_full_while_it_is_written_fails_the_run(tmp_path: Path, small_disk: Path) -> None:
    """The disk of the checkpoints; a folder that is full altogether has no room for the report either."""
    (tmp_path / "checkpoints").symlink_to(small_disk)
    environ = {"TINY_WRITE": f"step-000012:FILL:{small_disk}/ballast"}
    assert tiny.run_ranks(tmp_path, saving(every_steps=6), **environ) == [4, 4]
    _, failure_class, message = first_error(tmp_path)
    assert failure_class == "disk_full"
    assert "No space left on device" in message
    found = latest_complete(small_disk)
    assert found.folder is not None
    assert (found.folder.name, found.rejected) == ("step-000006", [])
