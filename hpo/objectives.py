"""The objectives as the recipe names them, and the verdict on a run that has ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galley.errors import ConfigError, Problem, valid_values
from galley.metrics import (
    DIRECTIONS,
    RUN_METRICS,
    Direction,
    Metric,
    contradiction,
    describe_range,
    unknown_direction,
)
from galley.schema import Hpo, Recipe
from galley.spec import RunResult
from galley.tasks import known_metrics, task_metrics, task_of
from hpo.study.values import Constraint, Objective, TrialState

# The metrics among `RUN_METRICS` that a running trial reports; before its end no other is used to judge it.
VISIBLE = ("samples_per_s", "tokens_per_s", "wall_s", "cost", "train/loss")
_FORM = "METRIC, METRIC:max, METRIC:min, or {metric, direction, bound}"


def read_objectives(recipe: Recipe) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Return objectives and constraints of the sweep. Raises `ConfigError` with every mistake."""
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

    problems += _together(objectives, constraints, recipe)
    if problems:
        raise ConfigError(problems)
    return tuple(objectives), tuple(constraints)


def direction_warnings(recipe: Recipe) -> list[str]:
    """Objectives whose stated direction is not that of the table of metrics, which they override."""
    known = known_metrics(recipe)
    found = (
        contradiction(f"hpo.objectives[{number}]", objective.metric, objective.direction, known)
        for number, objective in enumerate(read_objectives(recipe)[0])
    )
    return [warning for warning in found if warning is not None]


def directions(recipe: Recipe, objectives: Sequence[Objective]) -> dict[str, Direction]:
    """Return which direction is better, for every metric with a known one.

    An objective's own word comes first.
    """
    known = {name: metric.direction for name, metric in known_metrics(recipe).items()}
    return {**known, **{objective.metric: objective.direction for objective in objectives}}


def _objective(where: str, written: Any, recipe: Recipe) -> Objective:
    """Read one objective."""
    words = _words(where, written)
    metric, direction, bound = words["metric"], words.get("direction"), words.get("bound")
    _check_metric(where, metric, recipe)
    if direction is not None and direction not in DIRECTIONS:
        hint = valid_values(str(direction), ("maximize", "minimize"))
        raise ConfigError(Problem(where, f"'{direction}' is not a direction", hint))
    known = known_metrics(recipe).get(metric)
    if direction is None and known is None:
        raise ConfigError(unknown_direction(where, metric, f"{metric}:max or {metric}:min"))
    way = DIRECTIONS[str(direction)] if direction is not None else known.direction if known else "maximize"
    if bound is None:
        return Objective(metric, way)
    limit = _bound(where, metric, "bound", bound)
    _check_range(where, metric, limit, way, known)
    return Objective(metric, way, limit)


def _check_range(where: str, metric: str, limit: float, way: Direction, known: Metric | None) -> None:
    """Raise `ConfigError` for a bound that no value can keep."""
    if known is not None and (limit > known.high if way == "maximize" else limit < known.low):
        what = f"'{metric}' is never {'above' if way == 'maximize' else 'below'} {limit:g}"
        raise ConfigError(Problem(where, what, f"valid: {describe_range(known)}"))


def _words(where: str, written: Any) -> dict[str, Any]:
    """Return the three words of an objective, from text or a mapping."""
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
    """Read one constraint."""
    unknown = [word for word in words if word not in ("metric", "min", "max")]
    limits = {name: words[name] for name in ("min", "max") if words.get(name) is not None}
    if unknown or not limits or not isinstance(words.get("metric"), str):
        what = f"'{unknown[0]}' is not a word of a constraint" if unknown else "needs a metric and a limit"
        raise ConfigError(Problem(where, what, "{metric, min, max}"))
    metric = words["metric"]
    _check_metric(where, metric, recipe)
    bounds = {name: _bound(where, metric, name, limit) for name, limit in limits.items()}
    for name, limit in bounds.items():
        way: Direction = "maximize" if name == "min" else "minimize"
        _check_range(where, metric, limit, way, known_metrics(recipe).get(metric))
    if bounds.get("min", -math.inf) > bounds.get("max", math.inf):
        what = f"min {bounds['min']:g} is above max {bounds['max']:g}: nothing keeps both"
        raise ConfigError(Problem(where, what, "min <= max"))
    return Constraint(metric, bounds.get("min"), bounds.get("max"))


def _bound(where: str, metric: str, name: str, value: Any) -> float:
    """Return a bound. Raises `ConfigError` if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(Problem(where, f"{name} {value!r} of '{metric}' is not a finite number"))
    return float(value)


def _check_metric(where: str, metric: str, recipe: Recipe) -> None:
    """Raise `ConfigError` for a metric that the run does not report.

    A task from outside Galley may report any `eval/…`; its trials show which.
    """
    if (metric.startswith("eval/") or metric == "latency_s") and not recipe.eval.enabled:
        raise ConfigError(Problem(where, f"'{metric}' is not measured", "set eval.enabled=true"))
    if metric == "cost" and recipe.hpo.cost_per_hour is None:
        raise ConfigError(Problem(where, "the price is not known", "set hpo.cost_per_hour=X"))
    if metric == "energy_kwh" and not recipe.train.energy:
        raise ConfigError(Problem(where, f"'{metric}' is not measured", "set train.energy=true"))
    if metric == "co2_eq_kg" and recipe.train.country is None:
        raise ConfigError(
            Problem(where, f"'{metric}' is not known", "set train.energy=true train.country=ISO")
        )

    if metric in RUN_METRICS or (task_of(recipe).reports_any and metric.startswith("eval/")):
        return
    known = [*task_metrics(recipe), *RUN_METRICS]
    if metric not in known:
        what = f"task '{recipe.task.kind}' does not report '{metric}'"
        named = [name for name in known if name.split("/")[-1] == metric]
        hint = f"did you mean '{named[0]}'?" if named else valid_values(metric, known)
        raise ConfigError(Problem(where, what, hint))


def _together(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], recipe: Recipe
) -> Iterator[Problem]:
    """Yield problems between objectives and constraints."""
    if not recipe.hpo.objectives:
        hint = "'hpo.objectives=[eval/f1,samples_per_s]'; the reference lists the metrics"
        yield Problem("hpo.objectives", "the sweep seeks nothing", hint)
    names = [objective.metric for objective in objectives]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("hpo.objectives", f"'{name}' is named twice", "each metric once")
    for objective in objectives:
        for constraint in constraints:
            if constraint.metric == objective.metric and _contradict(objective, constraint):
                what = f"no value of '{objective.metric}' keeps both its bound and its constraint"
                yield Problem("hpo.constraints", what, "drop one of them")
    yield from _choose_problems(names, recipe.hpo)
    yield from _choose_bounds(objectives, recipe)


def _contradict(objective: Objective, constraint: Constraint) -> bool:
    """Return whether no value keeps both the bound and the constraint."""
    if objective.bound is None:
        return False
    if objective.direction == "maximize":
        return constraint.max is not None and constraint.max < objective.bound
    return constraint.min is not None and constraint.min > objective.bound


def _choose_problems(names: Sequence[str], hpo: Hpo) -> Iterator[Problem]:
    """Yield what is wrong with `hpo.choose`."""
    choose = hpo.choose
    for name in (*choose.weights, *filter(None, [choose.metric])):
        if name not in names:
            yield Problem("hpo.choose", f"'{name}' is no objective", valid_values(name, names))
    if choose.by == "weighted" and not any(choose.weights.values()):
        yield Problem("hpo.choose.weights", "gives no objective a weight", "{METRIC: WEIGHT, …}")
    if choose.by in ("epsilon", "budget") and not choose.bounds:
        yield Problem("hpo.choose.bounds", "has no bound", "{METRIC: WORST, …}")


def _choose_bounds(objectives: Sequence[Objective], recipe: Recipe) -> Iterator[Problem]:
    """Yield bounds of `hpo.choose` without a direction: a bound is the worst value allowed."""
    known = directions(recipe, objectives)
    for name in recipe.hpo.choose.bounds:
        where = f"hpo.choose.bounds.{name}"
        try:
            _check_metric(where, name, recipe)
        except ConfigError as error:
            yield from error.problems
        else:
            if name not in known:
                hint = f"make it an objective, {name}:max or {name}:min"
                yield unknown_direction(where, name, hint)


@dataclass(frozen=True)
class Verdict:
    """What a run that succeeded means for the sweep."""

    state: TrialState
    values: dict[str, float]
    feasible: bool
    message: str = ""


def measure(result: RunResult, rows: Iterable[Mapping[str, Any]], hpo: Hpo, nodes: int) -> dict[str, float]:
    """Return all metrics of a run by the names that objectives use.

    `wall_s` of a run that was interrupted is that of all its attempts: `time_s` of its last row counts
    what they added to it; `cost` is `hpo.cost_per_hour` × nodes × that time.
    """
    lived_s = max((float(row.get("time_s") or 0.0) for row in rows), default=0.0)
    measured: dict[str, float | None] = {
        **result.metrics,
        "samples_per_s": result.samples_per_s,
        "tokens_per_s": result.tokens_per_s,
        "latency_s": result.latency_s,
        "wall_s": max(result.wall_s, lived_s),
        "train_s": result.train_s,
        "peak_memory_gib": result.peak_memory_gib,
    }
    if hpo.cost_per_hour is not None:
        measured["cost"] = hpo.cost_per_hour * nodes * max(result.wall_s, lived_s) / 3600
    return {name: float(value) for name, value in measured.items() if value is not None}


def judge(
    metrics: Mapping[str, float], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Verdict:
    """Return failed if a metric is missing or no number; infeasible if a bound is not kept."""
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
    missed = "; ".join(f"{name} misses its bound by {excess:.4g}" for name, excess in broken.items())
    return Verdict("succeeded", values, not broken, missed)


def is_visible(metric: str) -> bool:
    """Return whether a running trial reports the metric."""
    return metric not in RUN_METRICS or metric in VISIBLE


def violations(
    metrics: Mapping[str, float], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> dict[str, float]:
    """Return each metric whose bound or constraint is not kept, and by how much."""
    return {name: excess for name, excess in excesses(metrics, objectives, constraints).items() if excess > 0}


def excesses(
    metrics: Mapping[str, float], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> dict[str, float]:
    """Return by how much every bounded metric is beyond its bound; at most 0 if the bound is kept.

    The names are the same for all trials.
    """
    beyond: dict[str, float] = {}
    for objective in objectives:
        if objective.bound is not None:
            sign = 1 if objective.direction == "minimize" else -1
            beyond[objective.metric] = sign * (metrics[objective.metric] - objective.bound)
    for constraint in constraints:
        value = metrics[constraint.metric]
        over = max(
            value - constraint.max if constraint.max is not None else -math.inf,
            constraint.min - value if constraint.min is not None else -math.inf,
        )
        beyond[constraint.metric] = max(beyond.get(constraint.metric, -math.inf), over)
    return beyond
