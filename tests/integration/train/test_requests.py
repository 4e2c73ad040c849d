"""Files that ask a living run to save or to end, on real ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint
from tests.integration.train import tiny
from trainer.checkpoints.manifest import list_checkpoints


def saved_steps(root: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(root / "checkpoints")]


def test_save_now_saves_once_and_changes_nothing_else(tmp_path: Path, finished: Any) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe(), 2)
    whole = finished(spec)
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "SAVE").touch()
    asked = tiny.train(tmp_path / "asked", spec)
    assert not (tmp_path / "asked" / "SAVE").exists()
    assert saved_steps(tmp_path / "asked") == ["step-000001"]
    assert tiny.losses(asked) == tiny.losses(whole)
    assert asked.read_result().state == "succeeded"


@pytest.mark.parametrize(("name", "state", "code"), [("KILL", "cancelled", 5), ("PREEMPT", "preempted", 4)])
def test_a_run_that_is_asked_to_end_saves_and_is_continued_bit_for_bit(
    tmp_path: Path, finished: Any, name: str, state: str, code: int
) -> None:
    recipe = tiny.tiny_recipe(checkpoint=Checkpoint(every_steps=6))
    spec = tiny.tiny_spec(recipe, 2)
    whole = finished(spec)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / name).touch()
    cut = tiny.train(tmp_path / "cut", spec)
    result = cut.read_result()
    assert (result.state, result.exit_code, result.steps) == (state, code, 1)
    assert name in result.message
    assert not cut.model.exists()
    assert not (cut.root / name).exists(), "it would end the next attempt as well"
    resumed = tiny.train(tmp_path / "cut", spec, attempt=2)
    assert resumed.read_result().resumed_from == "step-000001"
    assert tiny.losses(resumed) == tiny.losses(whole)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0.0
