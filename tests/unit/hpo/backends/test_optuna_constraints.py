from __future__ import annotations

from typing import Any

import optuna
import pytest

from hpo.backends import optuna_constraints
from hpo.backends.optuna_constraints import state_constraints, with_constraints

SAMPLERS = [
    optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler, optuna.samplers.NSGAIIISampler,
    optuna.samplers.GPSampler,
]  # fmt: skip


class Stored:
    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def set_trial_system_attr(self, trial: int, key: str, value: Any) -> None:
        self.attributes[key] = value


class TrialOf45:
    """Optuna 4 stores one tuple."""

    def __init__(self) -> None:
        self._trial_id, self.storage = 3, Stored()


def test_before_optuna_5_constraints_are_one_tuple() -> None:
    live: Any = TrialOf45()
    state_constraints(live, {"memory": 0.5, "time": -1.0})
    assert live.storage.attributes == {"constraints": (0.5, -1.0)}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_before_optuna_5_samplers_read_that_tuple(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_constraints, "BY_NAME", False)
    made: Any = with_constraints(sampler, seed=1)
    trial = optuna.trial.create_trial(value=1.0, system_attrs={"constraints": (2.0,)})
    assert made._constraints_func(trial) == (2.0,)
    assert made._constraints_func(optuna.trial.create_trial(value=1.0)) == ()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_best_trial_breaks_no_constraint() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=with_constraints(SAMPLERS[0], seed=0))
    for value, excess in ((1.0, 0.5), (2.0, -0.5), (3.0, -1.0)):
        trial = study.ask()
        state_constraints(trial, {"memory": excess})
        study.tell(trial, [value, value])
    assert [trial.number for trial in study.best_trials] == [1]
