"""Optimizers that update elements are the same under every strategy, and move between strategies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint, Optim
from tests.integration.train import tiny

LION = Optim("lion", lr=1e-3, betas=(0.9, 0.99))
SGD = Optim("sgd", lr=0.1, momentum=0.9, nesterov=True)
SAVED_AT = 8


@pytest.fixture(scope="module")
def reference(finished: Any) -> Any:
    """An optimizer -> the curve of one process."""

    def curve(optim: Optim) -> list[float]:
        spec = tiny.tiny_spec(tiny.tiny_recipe("single", optim=optim), 1)
        return tiny.losses(finished(spec, TINY_DROPOUT="0"))

    return curve


@pytest.mark.parametrize(
    ("optim", "strategy"),
    [(LION, "zero1"), (LION, "fsdp"), (SGD, "zero2"), (SGD, "zero3"), (Optim("sgd", momentum=0.0), "zero2")],
    ids=lambda value: value if isinstance(value, str) else f"{value.kind}-{value.momentum}",
)
def test_the_curve_is_that_of_one_process(
    tmp_path: Path, reference: Any, optim: Optim, strategy: str
) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe(strategy, optim=optim), 2)
    folder = tiny.train(tmp_path, spec, TINY_DROPOUT="0")
    assert tiny.losses(folder) == pytest.approx(reference(optim), abs=1e-5)


@pytest.mark.parametrize(("before", "after"), [("zero3", "fsdp"), ("fsdp", "zero1")])
def test_its_state_moves_to_another_strategy(tmp_path: Path, reference: Any, before: str, after: str) -> None:
    recipe = tiny.tiny_recipe(before, optim=LION, checkpoint=Checkpoint(every_steps=SAVED_AT))
    stopped = replace(recipe, train=replace(recipe.train, stop_at_step=SAVED_AT))
    tiny.train(tmp_path / "first", tiny.tiny_spec(stopped, 2), TINY_DROPOUT="0")
    goes_on = Checkpoint(resume_from=str(tmp_path / "first"))
    spec = tiny.tiny_spec(tiny.tiny_recipe(after, optim=LION, checkpoint=goes_on), 2)
    folder = tiny.train(tmp_path / "second", spec, TINY_DROPOUT="0")
    assert tiny.losses(folder) == pytest.approx(reference(LION)[SAVED_AT:], abs=1e-5)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("single", checkpoint=Checkpoint(every_steps=SAVED_AT))
    stopped = replace(recipe, train=replace(recipe.train, stop_at_step=SAVED_AT))
    tiny.train(tmp_path / "first", tiny.tiny_spec(stopped, 1), TINY_DROPOUT="0")
    goes_on = Checkpoint(resume_from=str(tmp_path / "first"))
    spec = tiny.tiny_spec(tiny.tiny_recipe("single", optim=SGD, checkpoint=goes_on), 1)
    assert tiny.run_ranks(tmp_path / "second", spec, TINY_DROPOUT="0") != [0]
    log = (tmp_path / "second/logs/attempt-1/rank-0.log").read_text()
    assert "was saved under another optimizer and holds no state of sgd" in log
