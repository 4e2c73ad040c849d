"""Latency as an objective: of evaluation, where there is one."""

from __future__ import annotations

import pytest

from galley.errors import ConfigError
from galley.schema import Eval, Hpo, Recipe
from galley.spec import RunResult, from_json, to_json
from hpo.objectives import measure, read_objectives


def test_smaller_is_better_and_it_is_what_the_run_reports() -> None:
    hpo = Hpo(kind="random", objectives=["samples_per_s", "latency_s"])
    objectives, _ = read_objectives(Recipe(hpo=hpo, eval=Eval(only=True)))
    assert [objective.direction for objective in objectives] == ["maximize", "minimize"]
    result = RunResult("succeeded", 0, samples_per_s=40.0, latency_s=0.025)
    assert measure(from_json(RunResult, to_json(result)), [], hpo, 1)["latency_s"] == 0.025
    assert "latency_s" not in measure(RunResult("succeeded", 0), [], hpo, 1)


def test_without_an_evaluation_there_is_none() -> None:
    hpo = Hpo(kind="random", objectives=["latency_s"])
    with pytest.raises(ConfigError, match=r"'latency_s' is not measured\n    set eval.enabled=true"):
        read_objectives(Recipe(hpo=hpo, eval=Eval(enabled=False)))
