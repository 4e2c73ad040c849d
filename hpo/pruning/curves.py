"""The learning curves of the trials, from their run folders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from galley.rundir import RunFolder
from hpo.objectives import excesses, is_visible
from hpo.pareto import losses
from hpo.study.state import Study
from hpo.study.values import Constraint, Objective, Trial

_MEANS = ("samples_per_s", "tokens_per_s")  # averaged, since each value is of a few steps and noisy
_TIMES = ("wall_s", "cost")


@dataclass(frozen=True)
class Report:
    """One point of a curve.

    Attributes:
        fraction: of the trial's optimizer steps, greater than 0.
        losses: as in `hpo.pareto`. Times are projected to the end, so that they can be compared.
        excess: by how much each bound is missed that a living run shows; 0 if it is kept.
    """

    fraction: float
    losses: tuple[float, ...]
    excess: tuple[float, ...] = ()

    @property
    def point(self) -> tuple[float, ...]:
        """Return losses and excess. Values that are not finite become NaN, which is worse than all else."""
        return tuple(x if math.isfinite(x) else math.nan for x in (*self.losses, *self.excess))

    @property
    def keeps_bounds(self) -> bool:
        """Return whether no visible bound is missed."""
        return not any(self.excess)


class Curves:
    """Curves of a study's trials. A file is read again only if it has changed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._read: dict[int, tuple[tuple[int, int], list[Report]]] = {}

    def of(self, trial: Trial) -> list[Report]:
        """Return the reports of a trial in the order of their fractions."""
        folder = RunFolder(Path(trial.run))
        try:
            stat = folder.metrics_file.stat()
        except FileNotFoundError:
            return []
        stamp = (stat.st_size, stat.st_mtime_ns)
        known = self._read.get(trial.number)
        if known is None or known[0] != stamp:
            known = (stamp, self._reports(folder))
            self._read[trial.number] = known
        return known[1]

    def is_new(self, trial: Trial, seen: dict[int, int]) -> bool:
        """Return whether the curve is longer than at the last call with the same `seen`."""
        length = len(self.of(trial))
        is_longer = length > seen.get(trial.number, 0)
        seen[trial.number] = length
        return is_longer

    def _reports(self, folder: RunFolder) -> list[Report]:
        progress = folder.read_progress()
        if progress is None or not progress.max_steps:
            return []
        study, price = self._study, self._study.hpo.cost_per_hour or 0.0
        rows = folder.read_metrics()
        return list(reports(rows, progress.max_steps, study.objectives, study.constraints, price))


def sees_bounds(study: Study) -> bool:
    """Return whether a living run shows all bounded metrics."""
    return all(is_visible(constraint.metric) for constraint in study.constraints)


def reports(
    rows: Iterator[dict[str, Any]],
    max_steps: int,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    cost_per_hour: float,
) -> Iterator[Report]:
    """Yield a report for each row that completes what objectives and visible bounds need."""
    bounds = [constraint for constraint in constraints if is_visible(constraint.metric)]
    needed = [*(o.metric for o in objectives), *(c.metric for c in bounds)]
    latest: dict[str, float] = {}
    rates: dict[str, list[float]] = {name: [] for name in _MEANS}
    evaluated = {name for name in needed if name.startswith("eval/")}

    for row in rows:
        numbers = {name: float(value) for name, value in row.items() if value is not None}
        for name in rates.keys() & numbers.keys():
            rates[name].append(numbers[name])
        latest |= numbers | {name: fmean(values) for name, values in rates.items() if values}
        completes = evaluated <= numbers.keys() if evaluated else "loss" in numbers
        fraction = numbers.get("step", 0.0) / max_steps
        if completes and fraction > 0:
            values = _values(latest, fraction, cost_per_hour)
            if all(name in values for name in needed):
                missed = excesses(values, objectives, bounds).values()
                excess = tuple(max(0.0, x) for x in missed)
                yield Report(min(fraction, 1.0), losses(values, objectives), excess)


def _values(latest: Mapping[str, float], fraction: float, cost_per_hour: float) -> dict[str, float]:
    """Return the metrics of a row, with times projected to the end."""
    whole_s = latest.get("time_s", 0.0) / fraction
    values = {**latest, "wall_s": whole_s, "cost": cost_per_hour * whole_s / 3600}
    if "loss" in latest:
        values["train/loss"] = latest["loss"]
    return values
