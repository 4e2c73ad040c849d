"""Derive from the trials of a study its front, its knee and its winner. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from galley.metrics import Direction
from galley.schema import Choose, Hpo
from hpo import pareto
from hpo.study.state import Study
from hpo.study.values import Estimate, Objective, ParetoFront, Trial


def pareto_front(study: Study) -> ParetoFront:
    """Return what the study found so far.

    Only trials that succeeded and keep every bound can be on the front.
    """
    without_front = ParetoFront(
        study=study.name,
        objectives=study.objectives,
        trials=tuple(study.trials),
        front=(),
        knee=None,
        chosen=None,
        estimates=_estimates(study.trials, study.hpo) if study.hpo.repeats > 1 else (),
        directions=study.directions,
    )

    candidates = _candidates(without_front, study.hpo.repeats)
    points = [pareto.losses(trial.values, study.objectives) for trial in candidates]
    on_front = [candidates[index] for index in pareto.front(points)]
    nearest = pareto.knee([pareto.losses(trial.values, study.objectives) for trial in on_front])
    return replace(
        without_front,
        front=tuple(trial.number for trial in on_front),
        knee=None if nearest is None else on_front[nearest].number,
        chosen=choose(on_front, study.objectives, study.hpo.choose, study.directions),
    )


def _estimates(trials: Sequence[Trial], hpo: Hpo) -> tuple[Estimate, ...]:
    """Return mean and spread of every point of which a run succeeded."""
    points: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.state == "succeeded":
            points.setdefault(_point(trial), []).append(trial)
    needed = hpo.min_successes or hpo.repeats
    return tuple(_estimate(number, runs, needed) for number, runs in sorted(points.items()))


def _point(trial: Trial) -> int:
    """Return the number of the first trial of its point."""
    return trial.number if trial.repeat_of is None else trial.repeat_of


def _estimate(number: int, runs: Sequence[Trial], needed: int) -> Estimate:
    """Return mean and spread of the runs of one point."""
    names, count = set.intersection(*(set(run.metrics) for run in runs)), len(runs)
    columns = {name: [run.metrics[name] for run in runs] for name in sorted(names)}
    std = {name: stdev(column) for name, column in columns.items()} if count > 1 else {}
    return Estimate(
        number=number,
        shown=runs[0].number,
        count=count,
        mean={name: fmean(column) for name, column in columns.items()},
        std=std,
        error={name: spread / math.sqrt(count) for name, spread in std.items()},
        enough=count >= needed,
    )


def _candidates(front: ParetoFront, repeats: int) -> list[Trial]:
    """Return the feasible trials, or with repeats the feasible points as means.

    A point is feasible if enough of its runs succeeded, and none missed a bound.
    """
    if repeats == 1:
        return [trial for trial in front.trials if trial.state == "succeeded" and trial.feasible]
    broken = {
        _point(trial)
        for trial in front.trials
        if trial.state == "infeasible" or (trial.state == "succeeded" and not trial.feasible)
    }
    kept = [one for one in front.estimates if one.enough and one.number not in broken]
    return sorted((front.stands_for(one.shown) for one in kept), key=lambda trial: trial.number)


def choose(
    front: Sequence[Trial],
    objectives: Sequence[Objective],
    rule: Choose,
    directions: Mapping[str, Direction],
) -> int | None:
    """Return the number of the winner among the trials of a front; None if none keeps the rule's bounds."""
    within = [trial for trial in front if _keeps(trial, rule.bounds, directions)]
    points = [pareto.losses(trial.values, objectives) for trial in within]
    if not within:
        return None

    if rule.by == "knee":
        return within[pareto.knee(points) or 0].number
    if rule.by == "weighted":
        weights = [rule.weights.get(objective.metric, 0.0) for objective in objectives]
        costs = [
            sum(w * x for w, x in zip(weights, point, strict=True)) for point in pareto.normalize(points)
        ]
        return within[costs.index(min(costs))].number

    metric = rule.metric or objectives[0].metric
    position = [objective.metric for objective in objectives].index(metric)
    best = min(range(len(within)), key=lambda index: (points[index][position], points[index]))
    return within[best].number


def _keeps(trial: Trial, bounds: Mapping[str, float], directions: Mapping[str, Direction]) -> bool:
    """Return whether no metric is worse than its bound; a metric that was not reported misses it."""
    for name, bound in bounds.items():
        value = trial.metrics.get(name, math.nan)
        if not (value >= bound if directions[name] == "maximize" else value <= bound):
            return False
    return True
