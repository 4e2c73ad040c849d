"""Constraints of trials, in the releases of Optuna that keep them by name (5) and in those before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

BY_NAME = hasattr(optuna.Trial, "set_constraint")
"""Whether samplers find the constraints of a trial themselves; before Optuna 5 they ask a function."""
_KEY = "constraints"  # of Optuna 4, in which a trial has one tuple of them


def state_constraints(live: optuna.Trial, excesses: Mapping[str, float]) -> None:
    """Store by how much the running trial breaks each constraint; at most 0 is kept."""
    if not hasattr(live, "set_constraint"):
        live.storage.set_trial_system_attr(live._trial_id, _KEY, tuple(excesses.values()))
        return
    for name, excess in excesses.items():
        live.set_constraint(name, excess)


def with_constraints(sampler: type[BaseSampler], **options: Any) -> BaseSampler:
    """Return a sampler that learns from `state_constraints`."""
    if not BY_NAME:
        options["constraints_func"] = _stated
    return sampler(**options)


def _stated(trial: FrozenTrial) -> tuple[float, ...]:
    return tuple(trial.system_attrs.get(_KEY, ()))
