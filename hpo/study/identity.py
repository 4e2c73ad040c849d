"""The identity of a study, which a database that several studies share stores and compares.

A name is not enough: it is the name of a folder, which another machine or user may have, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from galley.metrics import Direction
from hpo.backends.base import Search
from hpo.study.event_log import Begun
from hpo.study.values import Constraint, Objective, SpaceDim

PREFIX = "galley."  # begins the user attributes of an Optuna study, which optuna-dashboard shows


def study_id(begun: Begun) -> str:
    """Return an identifier that is equal for all controllers of a study, and for no other study."""
    parts = (begun.name, begun.time, begun.words, begun.code.sha256)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def identity(search: Search) -> dict[str, str]:
    """Return what is stored of a study, as readable text under names that begin with `PREFIX`."""
    return {
        f"{PREFIX}id": search.id,
        f"{PREFIX}space": "; ".join(_dimension(dim) for dim in search.space),
        f"{PREFIX}objectives": "; ".join(_objective(objective) for objective in search.objectives),
        f"{PREFIX}constraints": "; ".join(_constraint(constraint) for constraint in search.constraints),
    }


def differences(there: Mapping[str, Any], here: Mapping[str, str]) -> str:
    """Return both sides of everything that differs from a stored study; empty if it is the same study.

    `there`: the user attributes; a study that Galley did not begin has none of them.
    """
    if f"{PREFIX}id" not in there:
        return f"it was not begun by Galley; here: {here[f'{PREFIX}id']}"
    differing = [
        f"{name.removeprefix(PREFIX)} there: {there.get(name, '')}, here: {value}"
        for name, value in here.items()
        if there.get(name, "") != value
    ]
    return "; ".join(differing)


def directions(objectives: Sequence[Objective]) -> list[Direction]:
    """Return the directions by Optuna's names."""
    return [objective.direction for objective in objectives]


def _dimension(dim: SpaceDim) -> str:
    if dim.kind == "categorical":
        text = f"{dim.key} in {json.dumps(dim.choices)}"
    else:
        step = "" if dim.step is None else f" step {dim.step!r}"
        log = " log" if dim.log else ""
        text = f"{dim.key} {dim.kind} {dim.low!r} to {dim.high!r}{step}{log}"
    return f"{text} when {json.dumps(dim.when)}" if dim.when else text


def _objective(objective: Objective) -> str:
    bound = "" if objective.bound is None else f" bound {objective.bound!r}"
    return f"{objective.direction} {objective.metric}{bound}"


def _constraint(constraint: Constraint) -> str:
    limits = {"min": constraint.min, "max": constraint.max}
    parts = [f" {name} {value!r}" for name, value in limits.items() if value is not None]
    return constraint.metric + "".join(parts)
