"""`hpo=wandb`: the sweep as a configuration of W&B's. Its server draws the points, and W&B's agents,
wherever they are, run each as `train.py run`.

A dimension means there what it means here, or is refused. In particular W&B's `log_uniform` takes
exponents, and its `uniform` would search the range of a learning rate linearly: a dimension with
`log: true` is `log_uniform_values`, whose bounds are the values themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from galley.errors import ConfigError, Problem
from galley.paths import ROOT
from galley.rundir import write_atomic
from galley.schema import Recipe
from hpo.objectives import read_objectives
from hpo.points import size_of, values_of
from hpo.space import read_space
from hpo.values import Objective, SpaceDim

# The agent writes KEY=VALUE as it is: a word of Hydra's grammar, and of no shell's.
_LISTED = 1000  # values of one dimension
_PLAIN = re.compile(r"[A-Za-z0-9_./:-]+")


def export_sweep(recipe: Recipe, words: Sequence[str], file: Path) -> dict[str, Any]:
    """Write the configuration for `wandb sweep FILE`, and return it.

    Raises `ConfigError` with everything that W&B cannot express; then nothing is written.
    """
    space, (objectives, constraints) = read_space(recipe.hpo.space), read_objectives(recipe)
    problems = list(_problems(recipe, space, objectives, constraints))
    if problems:
        raise ConfigError(problems)
    config = {
        "name": file.parent.name,
        "project": recipe.tracker.project,
        "method": "bayes",
        "metric": {"name": objectives[0].metric, "goal": objectives[0].direction},
        "run_cap": recipe.hpo.trials,
        "parameters": {dim.key: parameter(dim) for dim in space},
        "command": command(words, space),
    }
    write_atomic(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return config


def parameter(dim: SpaceDim) -> dict[str, Any]:
    """A dimension as W&B has it."""
    if dim.kind == "categorical":
        return {"values": list(dim.choices)}
    low, high = dim.bounds
    if dim.kind == "int":
        bounds = {"min": int(low), "max": int(high)}
        if dim.log:
            return {"distribution": "q_log_uniform_values", "q": 1, **bounds}
        step = int(dim.step or 1)
        if step == 1:
            return {"distribution": "int_uniform", **bounds}
        return {"values": list(values_of(dim))}
    bounds_f = {"min": float(low), "max": float(high)}
    if dim.step is not None:
        return {"distribution": "q_uniform", "q": dim.step, **bounds_f}
    return {"distribution": "log_uniform_values" if dim.log else "uniform", **bounds_f}


def command(words: Sequence[str], space: Sequence[SpaceDim]) -> list[str]:
    """What an agent runs: the user's words without the sweep, then the point."""
    mine = {dim.key for dim in space}
    kept = [word for word in words if not _is_of_sweep(word.partition("=")[0].lstrip("+~"), mine)]
    program = [sys.executable, "-P", str(ROOT / "train.py"), "run"]
    return [*program, *kept, "hpo=none", "tracker=wandb", "${args_no_hyphens}"]


def _is_of_sweep(key: str, dims: set[str]) -> bool:
    return key == "hpo" or key.startswith("hpo.") or key in dims or key == "tracker"


def _problems(
    recipe: Recipe, space: Sequence[SpaceDim], objectives: Sequence[Objective], constraints: Sequence[Any]
) -> Iterator[Problem]:
    other = "choose hpo=optuna"
    if len(objectives) > 1:
        yield Problem("hpo.objectives", f"are {len(objectives)}; a W&B sweep has one metric", other)
    if constraints or any(objective.bound is not None for objective in objectives):
        yield Problem("hpo.constraints", "cannot be told to a W&B sweep", other)
    if recipe.hpo.pruning.kind != "none":
        yield Problem(
            "hpo.pruning.kind", "is Galley's; a W&B sweep is not run by it", "hpo.pruning.kind=none"
        )
    if recipe.hpo.repeats > 1:
        yield Problem("hpo.repeats", "cannot be told to a W&B sweep", other)
    for dim in space:
        yield from _dimension_problems(dim, other)


def _dimension_problems(dim: SpaceDim, other: str) -> Iterator[Problem]:
    where = f"hpo.space.{dim.key}"
    if dim.when:
        yield Problem(where, "is conditional; a W&B sweep draws every dimension always", other)
    for choice in dim.choices:
        plain = isinstance(choice, bool | int | float) or (
            isinstance(choice, str) and _PLAIN.fullmatch(choice)
        )
        if not plain:
            yield Problem(where, f"{choice!r} cannot be passed on by W&B's agent", "numbers and plain words")
    if dim.kind == "int" and dim.step not in (None, 1) and not dim.log and (size_of(dim) or 0) > _LISTED:
        what = f"has {size_of(dim)} values, which W&B takes as a list"
        yield Problem(where, what, f"at most {_LISTED}; or a range of step 1")
    if dim.kind == "float" and dim.step is not None:
        quotient = (dim.low or 0.0) / dim.step
        if abs(quotient - round(quotient)) > 1e-9:
            what = f"W&B rounds to multiples of the step, but low {dim.low} is none of {dim.step}"
            yield Problem(where, what, "a low that is, or a list of choices")
    if dim.log and dim.step is not None and dim.step != 1:
        yield Problem(where, "log and step together are not a distribution of W&B's", other)
