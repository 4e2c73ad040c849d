"""What is sought, as the recipe names it; and what a run that has ended says about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galley.errors import ConfigError, Problem, valid_values
from galley.rules import TASK_METRICS
from galley.schema import Hpo, Recipe
from galley.spec import RunResult
from hpo.values import Constraint, Direction, Objective, TrialState

# What every run reports, whatever its task, and which way is better.
RUN_METRICS: dict[str, Direction] = {
    "samples_per_s": "maximize",
    "tokens_per_s": "maximize",
    "latency_s": "minimize",
    "wall_s": "minimize",
    "train_s": "minimize",
    "peak_memory_gib": "minimize",
    "cost": "minimize",
    "energy_kwh": "minimize",
    "train/loss": "minimize",
}
DIRECTIONS: dict[str, Direction] = {
    "max": "maximize", "maximize": "maximize", "min": "minimize", "minimize": "minimize"
}  # fmt: skip
_SHARES = ("eval/accuracy", "eval/f1", "eval/f1_macro")  # between 0 and 1
_FORM = "METRIC, METRIC:max, METRIC:min, or {metric, direction, bound}"


def read_objectives(recipe: Recipe) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Objectives and constraints of the sweep. Raises `ConfigError` with every mistake."""
    objectives: list[Objective] = []
    constraints: list[Constraint] = []
    problems: list[Problem] = []
    for number, written in enumerate(recipe.hpo.objectives):
        try:
            objectives.append(_objective(f"hpo.objectives[{number}]", written, recipe))
        except ConfigError as error:
            problems += error.problems
    for number, words in enumerate(recipe.hpo.constraints):
        try:
            constraints.append(_constraint(f"hpo.constraints[{number}]", words, recipe))
        except ConfigError as error:
            problems += error.problems
    problems += _together(objectives, constraints, recipe.hpo)
    if problems:
        raise ConfigError(problems)
    return tuple(objectives), tuple(constraints)


def default_direction(metric: str) -> Direction | None:
    """Which way is better, where that is known of the metric."""
    if metric in RUN_METRICS:
        return RUN_METRICS[metric]
    known = {name for names in TASK_METRICS.values() for name in names}
    return ("minimize" if metric.endswith("loss") else "maximize") if metric in known else None


def _objective(where: str, written: Any, recipe: Recipe) -> Objective:
    words = _words(where, written)
    metric, direction, bound = words["metric"], words.get("direction"), words.get("bound")
    _check_metric(where, metric, recipe)
    if direction is not None and direction not in DIRECTIONS:
        hint = valid_values(str(direction), ("maximize", "minimize"))
        raise ConfigError(Problem(where, f"'{direction}' is not a direction", hint))
    way = DIRECTIONS[str(direction)] if direction is not None else default_direction(metric)
    if way is None:
        raise ConfigError(Problem(where, f"says not which way '{metric}' is better", f"{metric}:max or :min"))
    if bound is not None:
        bound = _bound(where, metric, "bound", bound)
    if metric in _SHARES and bound is not None and (bound > 1 if way == "maximize" else bound < 0):
        raise ConfigError(Problem(where, f"'{metric}' is never better than {bound:g}", "between 0 and 1"))
    return Objective(metric, way, bound)


def _words(where: str, written: Any) -> dict[str, Any]:
    """The three words of an objective, from text or a mapping."""
    if isinstance(written, str):
        metric, _, direction = written.rpartition(":") if ":" in written else (written, "", "")
        return {"metric": metric, "direction": direction or None}
    words = dict(written)
    unknown = [word for word in words if word not in ("metric", "direction", "bound")]
    if unknown or not isinstance(words.get("metric"), str):
        what = f"'{unknown[0]}' is not a word of an objective" if unknown else "names no metric"
        raise ConfigError(Problem(where, what, _FORM))
    return words


def _constraint(where: str, words: Mapping[str, Any], recipe: Recipe) -> Constraint:
    unknown = [word for word in words if word not in ("metric", "min", "max")]
    limits = {name: words[name] for name in ("min", "max") if words.get(name) is not None}
    if unknown or not limits or not isinstance(words.get("metric"), str):
        what = f"'{unknown[0]}' is not a word of a constraint" if unknown else "needs a metric and a limit"
        raise ConfigError(Problem(where, what, "{metric, min, max}"))
    metric = words["metric"]
    _check_metric(where, metric, recipe)
    found = {name: _bound(where, metric, name, limit) for name, limit in limits.items()}
    if found.get("min", -math.inf) > found.get("max", math.inf):
        what = f"min {found['min']:g} is above max {found['max']:g}: nothing keeps both"
        raise ConfigError(Problem(where, what, "min <= max"))
    return Constraint(metric, found.get("min"), found.get("max"))


def _bound(where: str, metric: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(Problem(where, f"{name} {value!r} of '{metric}' is not a finite number"))
    return float(value)


def _check_metric(where: str, metric: str, recipe: Recipe) -> None:
    """A task of the user's own may report any `eval/…`; its trials find out."""
    task = TASK_METRICS.get(recipe.task.kind)
    if (metric.startswith("eval/") or metric == "latency_s") and not recipe.eval.enabled:
        raise ConfigError(Problem(where, f"'{metric}' is not measured", "set eval.enabled=true"))
    if metric == "cost" and recipe.hpo.cost_per_hour is None:
        raise ConfigError(Problem(where, "the price is not known", "set hpo.cost_per_hour=X"))
    if metric == "energy_kwh" and not recipe.train.energy:
        raise ConfigError(Problem(where, f"'{metric}' is not measured", "set train.energy=true"))
    if metric in RUN_METRICS or (task is None and metric.startswith("eval/")):
        return
    known = [*(task or ()), *RUN_METRICS]
    if metric not in known:
        what = f"task '{recipe.task.kind}' does not report '{metric}'"
        named = [name for name in known if name.split("/")[-1] == metric]
        hint = f"did you mean '{named[0]}'?" if named else valid_values(metric, known)
        raise ConfigError(Problem(where, what, hint))


def _together(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], hpo: Hpo
) -> Iterator[Problem]:
    if not hpo.objectives:
        hint = "hpo.objectives=[eval/f1,samples_per_s]; the reference lists the metrics"
        yield Problem("hpo.objectives", "the sweep seeks nothing", hint)
    names = [objective.metric for objective in objectives]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("hpo.objectives", f"'{name}' is named twice", "each metric once")
    for objective in objectives:
        for constraint in constraints:
            if constraint.metric == objective.metric and _contradict(objective, constraint):
                what = f"no value of '{objective.metric}' keeps both its bound and its constraint"
                yield Problem("hpo.constraints", what, "drop one of them")
    yield from _choose_problems(names, hpo)


def _contradict(objective: Objective, constraint: Constraint) -> bool:
    if objective.bound is None:
        return False
    if objective.direction == "maximize":
        return constraint.max is not None and constraint.max < objective.bound
    return constraint.min is not None and constraint.min > objective.bound


def _choose_problems(names: Sequence[str], hpo: Hpo) -> Iterator[Problem]:
    choose = hpo.choose
    for name in (*choose.weights, *filter(None, [choose.metric])):
        if name not in names:
            yield Problem("hpo.choose", f"'{name}' is no objective", valid_values(name, names))
    if choose.by == "weighted" and not any(choose.weights.values()):
        yield Problem("hpo.choose.weights", "gives no objective a weight", "{METRIC: WEIGHT, …}")
    if choose.by in ("epsilon", "budget") and not choose.bounds:
        yield Problem("hpo.choose.bounds", "has no bound", "{METRIC: WORST, …}")


@dataclass(frozen=True)
class Verdict:
    """What a run that succeeded means for the sweep."""

    state: TrialState
    values: dict[str, float]
    feasible: bool
    message: str = ""


def measure(result: RunResult, rows: Iterable[Mapping[str, Any]], hpo: Hpo, nodes: int) -> dict[str, float]:
    """All metrics of a run by the names that objectives use.

    `wall_s` of a run that was interrupted is that of all its attempts: `time_s` of its last row counts
    what they added to it; `cost` is `hpo.cost_per_hour` × nodes × that time.
    """
    lived_s = max((float(row.get("time_s") or 0.0) for row in rows), default=0.0)
    found: dict[str, float | None] = {
        **result.metrics,
        "samples_per_s": result.samples_per_s,
        "tokens_per_s": result.tokens_per_s,
        "latency_s": result.latency_s,
        "wall_s": max(result.wall_s, lived_s),
        "train_s": result.train_s,
        "peak_memory_gib": result.peak_memory_gib,
    }
    if hpo.cost_per_hour is not None:
        found["cost"] = hpo.cost_per_hour * nodes * max(result.wall_s, lived_s) / 3600
    return {name: float(value) for name, value in found.items() if value is not None}


def judge(
    metrics: Mapping[str, float], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Verdict:
    """Failed where a metric is missing or no number; not feasible where a bound is not kept."""
    for name in (*(o.metric for o in objectives), *(c.metric for c in constraints)):
        if name not in metrics:
            reported = ", ".join(sorted(metrics)) or "nothing"
            return Verdict("failed", {}, False, f"the run did not report '{name}', but {reported}")
        if math.isnan(metrics[name]):
            return Verdict("failed", {}, False, f"'{name}' is not a number")
        if math.isinf(metrics[name]):
            return Verdict("failed", {}, False, f"'{name}' is infinite")
    values = {objective.metric: metrics[objective.metric] for objective in objectives}
    broken = violations(metrics, objectives, constraints)
    said = "; ".join(f"{name} misses its bound by {excess:.4g}" for name, excess in broken.items())
    return Verdict("succeeded", values, not broken, said)


def violations(
    metrics: Mapping[str, float], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> dict[str, float]:
    """Metric -> by how much its bound or constraint is not kept, for those that are not."""
    found: dict[str, float] = {}
    for objective in objectives:
        if objective.bound is not None:
            sign = 1 if objective.direction == "minimize" else -1
            found[objective.metric] = sign * (metrics[objective.metric] - objective.bound)
    for constraint in constraints:
        value = metrics[constraint.metric]
        over = max(
            value - constraint.max if constraint.max is not None else -math.inf,
            constraint.min - value if constraint.min is not None else -math.inf,
        )
        found[constraint.metric] = max(found.get(constraint.metric, -math.inf), over)
    return {name: excess for name, excess in found.items() if excess > 0}
