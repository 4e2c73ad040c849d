"""What a sweep may seek, and what is refused before anything starts."""

from __future__ import annotations

import json
import math

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Recipe
from hpo.check import sweep_problems
from hpo.objectives import judge, read_objectives
from hpo.study.values import Constraint, Objective

F1, SPEED = "eval/f1", "samples_per_s"


def sought(*words: str) -> Recipe:
    return compose_recipe(["hpo=random", "optim.lr=1e-5,1e-4", *words], [])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((f"hpo.objectives=[{F1}:up]",), "'up' is not a direction"),
        (("hpo.objectives=[eval/f2]",), "does not report 'eval/f2'"),
        ((f"hpo.objectives=[{F1},{F1}]",), "is named twice"),
        ((f"hpo.objectives=[{{metric: {F1}, bound: 1.5}}]",), "is never above 1.5.*\n.*0 to 1"),
        ((f"hpo.objectives=[{{metric: {F1}, bound: .nan}}]",), "is not a finite number"),
        (
            (f"hpo.objectives=[{F1}]", "eval.enabled=false"),
            "'eval/f1' is not measured.*\n.*eval.enabled=true",
        ),
        (("hpo.objectives=[energy_kwh]",), "'energy_kwh' is not measured.*\n.*train.energy=true"),
        (("hpo.objectives=[cost]",), "the price is not known"),
        (("hpo.objectives=[]",), "seeks nothing"),
        (
            (f"hpo.objectives=[{F1}]", "hpo.repeats=2", "hpo.min_successes=3", "hpo.trials=4"),
            "hpo.min_successes: 3 of 2 runs of a point cannot succeed.*\n.*at most hpo.repeats=2",
        ),
        (
            (f"hpo.objectives=[{F1}]", f"hpo.constraints=[{{metric: {SPEED}, min: 9, max: 3}}]"),
            "min 9 is above max 3: nothing keeps both",
        ),
        (
            (
                f"hpo.objectives=[{{metric: {SPEED}, bound: 10}}]",
                f"hpo.constraints=[{{metric: {SPEED}, max: 5}}]",
            ),
            "no value of 'samples_per_s' keeps both its bound and its constraint",
        ),
    ],
)
def test_what_cannot_be_sought_is_named(words: tuple[str, ...], complaint: str) -> None:
    problems = sweep_problems(sought(*words))
    with pytest.raises(ConfigError, match=complaint):
        raise ConfigError(problems)


def test_objectives_have_directions_and_bounds() -> None:
    recipe = sought(
        f"hpo.objectives=[{F1},{{metric: {SPEED}, bound: 10}},energy_kwh]", "train.energy=true",
        "hpo.constraints=[{metric: peak_memory_gib, max: 4}]",
    )  # fmt: skip
    objectives, constraints = read_objectives(recipe)
    assert objectives == (
        Objective(F1, "maximize"), Objective(SPEED, "maximize", 10.0), Objective("energy_kwh", "minimize"),
    )  # fmt: skip
    assert constraints == (Constraint("peak_memory_gib", None, 4.0),)


@pytest.mark.parametrize(
    ("value", "state", "message"),
    [
        (None, "failed", "the run did not report 'eval/f1', but samples_per_s"),
        (math.nan, "failed", "'eval/f1' is not a number"),
        (math.inf, "failed", "'eval/f1' is infinite"),
        (0.5, "succeeded", "eval/f1 misses its bound by 0.1"),
        (0.7, "succeeded", ""),
    ],
)
def test_trial_is_judged_by_its_metrics(value: float | None, state: str, message: str) -> None:
    metrics = {SPEED: 3.0} | ({} if value is None else {F1: value})
    verdict = judge(metrics, [Objective(F1, "maximize", 0.6)], [])
    assert (verdict.state, verdict.message) == (state, message)
    assert verdict.feasible == (value == 0.7)
    assert json.dumps(verdict.values, allow_nan=False) == json.dumps({F1: value} if state != "failed" else {})
