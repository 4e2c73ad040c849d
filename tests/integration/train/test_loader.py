"""Loader workers under several ranks: the same losses, bit for bit, also after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from galley.schema import Checkpoint, Data, Recipe
from tests.integration.train import tiny


def with_workers(recipe: Recipe) -> Recipe:
    return replace(recipe, data=Data(loader_workers=2))


def test_a_run_is_the_same_with_workers_and_after_a_kill(tmp_path: Path) -> None:
    plain = tiny.tiny_recipe("ddp", checkpoint=Checkpoint(every_steps=4))
    expected = tiny.losses(tiny.train(tmp_path / "plain", tiny.tiny_spec(plain, 2)))
    spec = tiny.tiny_spec(with_workers(plain), 2)
    assert tiny.run_ranks(tmp_path / "killed", spec, TINY_KILL="10")[-1] == -9
    folder = tiny.train(tmp_path / "killed", spec, attempt=2)
    assert folder.read_result().resumed_from == "step-000008"
    assert tiny.losses(folder) == expected
