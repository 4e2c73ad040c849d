"""From the trials of a study to its front, its knee and its winner. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from galley.metrics import Direction
from galley.schema import Choose
from hpo import pareto
from hpo.study import Study
from hpo.values import Estimate, Objective, ParetoFront, Trial


def pareto_front(study: Study) -> ParetoFront:
    """What the study found so far. Only trials that succeeded and keep every bound can be on the front."""
    estimates = _estimates(study.trials) if study.hpo.repeats > 1 else ()
    candidates = _candidates(study.trials, estimates)
    points = [pareto.losses(trial.values, study.objectives) for trial in candidates]
    on_front = [candidates[index] for index in pareto.front(points)]
    nearest = pareto.knee([pareto.losses(trial.values, study.objectives) for trial in on_front])
    return ParetoFront(
        study=study.name,
        objectives=study.objectives,
        trials=tuple(study.trials),
        front=tuple(trial.number for trial in on_front),
        knee=None if nearest is None else on_front[nearest].number,
        chosen=choose(on_front, study.objectives, study.hpo.choose, study.directions),
        estimates=estimates,
        directions=study.directions,
    )


def _estimates(trials: Sequence[Trial]) -> tuple[Estimate, ...]:
    """Mean and standard error of every point of which a run succeeded."""
    points: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.state == "succeeded":
            first = trial.number if trial.repeat_of is None else trial.repeat_of
            points.setdefault(first, []).append(trial)
    return tuple(_estimate(number, runs) for number, runs in sorted(points.items()))


def _estimate(number: int, runs: Sequence[Trial]) -> Estimate:
    names = set.intersection(*(set(run.metrics) for run in runs))
    columns = {name: [run.metrics[name] for run in runs] for name in sorted(names)}
    error = {name: stdev(c) / math.sqrt(len(c)) if len(c) > 1 else 0.0 for name, c in columns.items()}
    return Estimate(number, len(runs), {name: fmean(c) for name, c in columns.items()}, error)


def _candidates(trials: Sequence[Trial], estimates: Sequence[Estimate]) -> list[Trial]:
    """Feasible points; with repeats the first trial of each, carrying the means."""
    feasible = [trial for trial in trials if trial.state == "succeeded" and trial.feasible]
    if not estimates:
        return feasible
    kept = {trial.number if trial.repeat_of is None else trial.repeat_of for trial in feasible}
    kept -= {
        trial.number if trial.repeat_of is None else trial.repeat_of
        for trial in trials
        if trial.state == "infeasible" or not trial.feasible
    }
    names = feasible[0].values if feasible else {}
    return [
        replace(
            trials[estimate.number],
            values={name: estimate.mean[name] for name in names},
            metrics=estimate.mean,
        )
        for estimate in estimates
        if estimate.number in kept
    ]


def choose(
    front: Sequence[Trial],
    objectives: Sequence[Objective],
    rule: Choose,
    directions: Mapping[str, Direction],
) -> int | None:
    """The number of the winner among the trials of a front; None where none keeps the rule's bounds."""
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
    """Whether no metric is worse than its bound; a metric that was not reported keeps none."""
    for name, bound in bounds.items():
        value = trial.metrics.get(name, math.nan)
        if not (value >= bound if directions[name] == "maximize" else value <= bound):
            return False
    return True
