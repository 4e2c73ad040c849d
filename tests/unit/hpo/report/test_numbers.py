"""Numbers of a report: of any magnitude, and those that JSON has not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cli.options import Options
from cli.plan import plan
from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from hpo.report import write_report
from hpo.report.importance import importances
from hpo.study.values import Objective, ParetoFront, Trial
from hpo.summary import front_json

# eval/loss of eight trials with a = 0 or 1: epsilon squared is 1 - (SS_within / 6) / (SS_total / 7).
LOSSES = [1.0, 2.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0]
SHARE = 1 - (2.0 / 6) / (34.0 / 7)


def trials(scale: float, offset: float = 0.0) -> list[Trial]:
    made = [{"m": loss * scale + offset} for loss in LOSSES]
    return [Trial(n, "succeeded", {"a": n // 4}, each, metrics=each) for n, each in enumerate(made)]


@pytest.mark.parametrize("scale", [1.0, 1e154, 1e200, 2e307, -1e300, 1e-200, 1e-308])
def test_importance_is_the_same_at_any_magnitude(scale: float) -> None:
    ((name, share),) = importances(trials(scale), ["a"], "m")
    assert (name, share) == ("a", pytest.approx(SHARE, rel=1e-9))


def test_importance_of_a_metric_far_from_zero() -> None:
    ((_, share),) = importances(trials(1e-3, 1e6), ["a"], "m")
    assert share == pytest.approx(SHARE, rel=1e-4)


def test_no_bare_nan_stands_in_a_file_of_json(tmp_path: Path) -> None:
    told = {"m": 0.5, "train/loss": math.nan, "grad": -math.inf}
    trial = Trial(0, "failed", {}, {}, metrics=told)
    front = ParetoFront("s", (Objective("m", "minimize"),), (trial,), (), None, None)
    write_report(front, [], tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    for text in ((tmp_path / "front.json").read_text(), json.dumps(front_json(front, tmp_path))):
        read = json.loads(text, parse_constant=refuse)
        assert read["trials"][0]["metrics"] == {"m": 0.5, "train/loss": None, "grad": None}


def test_a_sweep_of_wandb_is_written_by_the_verb_that_is_named() -> None:
    words = ["hpo=wandb", "optim.lr=interval(1e-5,1e-3)", "hpo.objectives=[eval/loss]"]
    compose_recipe(words, [])
    with pytest.raises(ConfigError, match=r"train\.py sweep hpo=wandb") as raised:
        plan(words, Options())
    assert len(raised.value.problems) == 1
