"""`hpo=wandb`: the sweep as a configuration of W&B.

W&B's server draws the points, and its agents, wherever they are, run each as `train.py run`.
A dimension means the same there as here, or it is refused. In particular W&B's `log_uniform` takes
exponents, and its `uniform` would search the range of a learning rate linearly: a dimension with
`log: true` is `log_uniform_values`, whose bounds are the values themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from galley.errors import ConfigError, Problem
from galley.paths import ROOT
from galley.rundir import write_atomic
from galley.schema import Recipe
from galley.spec import RunResult
from hpo.objectives import read_objectives
from hpo.space.dimensions import read_space
from hpo.space.points import size_of, values_of
from hpo.study.values import Objective, SpaceDim

# The agent passes KEY=VALUE unquoted: the value must be plain in Hydra's grammar. No shell reads it.
_LISTED = 1000  # most values of one dimension
_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")


def export_sweep(
    recipe: Recipe, words: Sequence[str], file: Path, config_dirs: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write the configuration for `wandb sweep FILE`, and return it.

    `config_dirs`: the user's folders, which the agents need, too.

    Raises `ConfigError` with everything that W&B cannot express; then nothing is written.
    """
    space, (objectives, constraints) = read_space(recipe.hpo.space), read_objectives(recipe)
    problems = [*_problems(recipe, space, objectives, constraints), *_word_problems(words)]
    if problems:
        raise ConfigError(problems)

    config = {
        "name": file.parent.name,
        **({"entity": recipe.tracker.entity} if recipe.tracker.entity else {}),
        "project": recipe.tracker.project,
        "method": "bayes",
        "metric": {"name": objectives[0].metric, "goal": objectives[0].direction},
        "run_cap": recipe.hpo.trials,
        "parameters": {dim.key: parameter(dim) for dim in space},
        "command": command(words, space, config_dirs),
    }
    write_atomic(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return config


def parameter(dim: SpaceDim) -> dict[str, Any]:
    """Return a dimension in W&B's form."""
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


def command(words: Sequence[str], space: Sequence[SpaceDim], config_dirs: Sequence[Path] = ()) -> list[str]:
    """Return the command of an agent: the user's words without the sweep, then the point."""
    folders = [word for path in config_dirs for word in ("--config-dir", str(path.resolve()))]
    mine = {dim.key for dim in space}
    kept = [word for word in words if not _is_of_sweep(word.partition("=")[0].lstrip("+~"), mine)]
    program = [sys.executable, "-P", str(ROOT / "train.py"), "run"]
    return [*program, *folders, *kept, "hpo=none", "tracker=wandb", "${args_no_hyphens}"]


def _is_of_sweep(key: str, dims: set[str]) -> bool:
    return key == "hpo" or key.startswith("hpo.") or key in dims or key == "tracker"


def _problems(
    recipe: Recipe, space: Sequence[SpaceDim], objectives: Sequence[Objective], constraints: Sequence[Any]
) -> Iterator[Problem]:
    """Yield what a W&B sweep cannot do."""
    other = "choose hpo=optuna"
    if len(objectives) > 1:
        yield Problem("hpo.objectives", f"are {len(objectives)}; a W&B sweep has one metric", other)
    if constraints or any(objective.bound is not None for objective in objectives):
        yield Problem("hpo.constraints", "cannot be told to a W&B sweep", other)
    if recipe.hpo.pruning.kind != "none":
        yield Problem(
            "hpo.pruning.kind", "is Galley's; a W&B sweep is not run by it", "hpo.pruning.kind=none"
        )

    if recipe.hpo.points is not None:
        yield Problem("hpo.points", "cannot be told to a W&B sweep", other)
    if recipe.hpo.repeats > 1:
        yield Problem("hpo.repeats", "cannot be told to a W&B sweep", other)

    for objective in objectives:
        if not _is_logged(objective.metric):
            what = (
                f"no run logs '{objective.metric}', which Galley computes of a trial: W&B would learn nothing"
            )
            yield Problem("hpo.objectives", what, other)
    if recipe.tracker.mode in ("offline", "disabled"):
        what = f"is {recipe.tracker.mode}: no agent would tell W&B's server a metric"
        yield Problem("tracker.mode", what, "valid: auto, online")
    for dim in space:
        yield from _dimension_problems(dim, other)


def _is_logged(metric: str) -> bool:
    """Return whether a run reports the metric to its tracker, in a row or in its summary."""
    in_result = {field.name for field in fields(RunResult)} | {"train/loss", "energy_kwh"}
    return metric.startswith("eval/") or metric in in_result


def _word_problems(words: Sequence[str]) -> Iterator[Problem]:
    """Yield words with values that would be sent to W&B's server: it gets the command as it is."""
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key == "launcher.env" or key.startswith("launcher.env."):
            what = "would be sent to W&B's server with its value"
            yield Problem(key, what, "put it into a recipe; of a secret, the name into launcher.forward_env")


def _arrives(choice: Any) -> bool:
    """Return whether `KEY=CHOICE`, as the agent writes it, is read back as this very value."""
    from galley.config.hydra_bridge import parse_override

    if not isinstance(choice, bool | int | float | str) or not _PLAIN.fullmatch(str(choice)):
        return False
    read = parse_override(f"key={choice}").value()
    return type(read) is type(choice) and read == choice


def _dimension_problems(dim: SpaceDim, other: str) -> Iterator[Problem]:
    """Yield what W&B cannot express of a dimension."""
    where = f"hpo.space.{dim.key}"
    if dim.when:
        yield Problem(where, "is conditional; a W&B sweep draws every dimension always", other)
    for choice in dim.choices:
        if not _arrives(choice):
            what = f"{choice!r} cannot be passed on by W&B's agent, which writes {choice}"
            yield Problem(where, what, "numbers, true and false, and plain words that are no numbers")

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
