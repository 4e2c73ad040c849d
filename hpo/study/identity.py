"""Who a study is: what a database that several studies share stores of each, and compares.

A name is not enough: it is the name of a folder, which another machine, or another user, has too.
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

PREFIX = "galley."  # of the user attributes of an Optuna study, which optuna-dashboard shows


def study_id(begun: Begun) -> str:
    """The identifier of a study: equal for all its controllers, and for no study begun at another time."""
    parts = (begun.name, begun.time, begun.words, begun.code.sha256)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def identity(search: Search) -> dict[str, str]:
    """What is stored of a study, each under a name that begins with `PREFIX`. Text that a person reads."""
    return {
        f"{PREFIX}id": search.id,
        f"{PREFIX}space": "; ".join(_dimension(dim) for dim in search.space),
        f"{PREFIX}objectives": "; ".join(_objective(objective) for objective in search.objectives),
        f"{PREFIX}constraints": "; ".join(_constraint(constraint) for constraint in search.constraints),
    }


def differences(there: Mapping[str, Any], here: Mapping[str, str]) -> str:
    """Both sides of everything in which a stored study is another one; empty where it is this one.

    `there`: its user attributes; a study that Galley did not begin has none of them.
    """
    if f"{PREFIX}id" not in there:
        return f"it was not begun by Galley; here: {here[f'{PREFIX}id']}"
    told = [
        f"{name.removeprefix(PREFIX)} there: {there.get(name, '')}, here: {value}"
        for name, value in here.items()
        if there.get(name, "") != value
    ]
    return "; ".join(told)


def directions(objectives: Sequence[Objective]) -> list[Direction]:
    """As Optuna names them."""
    return [objective.direction for objective in objectives]


def _dimension(dim: SpaceDim) -> str:
    if dim.kind == "categorical":
        said = f"{dim.key} in {json.dumps(dim.choices)}"
    else:
        step = "" if dim.step is None else f" step {dim.step!r}"
        log = " log" if dim.log else ""
        said = f"{dim.key} {dim.kind} {dim.low!r} to {dim.high!r}{step}{log}"
    return f"{said} when {json.dumps(dim.when)}" if dim.when else said


def _objective(objective: Objective) -> str:
    bound = "" if objective.bound is None else f" bound {objective.bound!r}"
    return f"{objective.direction} {objective.metric}{bound}"


def _constraint(constraint: Constraint) -> str:
    limits = {"min": constraint.min, "max": constraint.max}
    said = [f" {name} {value!r}" for name, value in limits.items() if value is not None]
    return constraint.metric + "".join(said)
