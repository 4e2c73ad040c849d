"""The learning curves of the trials, from their run folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from galley.rundir import RunFolder
from hpo.pareto import losses
from hpo.study import Study
from hpo.values import Objective, Trial

_MEANS = ("samples_per_s", "tokens_per_s")  # of a window of steps each: noisy one by one
_TIMES = ("wall_s", "cost")


@dataclass(frozen=True)
class Report:
    """One point of a curve.

    Attributes:
        fraction: of the trial's optimizer steps, greater than 0.
        losses: as in `hpo.pareto`. Times are projected to the end, so that they can be compared.
    """

    fraction: float
    losses: tuple[float, ...]


class Curves:
    """Curves of a study's trials; a file is read again only when it has changed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._read: dict[int, tuple[tuple[int, int], list[Report]]] = {}

    def of(self, trial: Trial) -> list[Report]:
        """In order of their fractions."""
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
        """Whether the curve is longer than when it was asked the last time with the same `seen`."""
        length = len(self.of(trial))
        is_longer = length > seen.get(trial.number, 0)
        seen[trial.number] = length
        return is_longer

    def _reports(self, folder: RunFolder) -> list[Report]:
        progress = folder.read_progress()
        if progress is None or not progress.max_steps:
            return []
        price = self._study.hpo.cost_per_hour or 0.0
        return list(reports(folder.read_metrics(), progress.max_steps, self._study.objectives, price))


def reports(
    rows: Iterator[dict[str, Any]], max_steps: int, objectives: Sequence[Objective], cost_per_hour: float
) -> Iterator[Report]:
    """One where a row completes what the objectives need; where one is missing, there is none."""
    latest: dict[str, float] = {}
    rates: dict[str, list[float]] = {name: [] for name in _MEANS}
    evaluated = {o.metric for o in objectives if o.metric.startswith("eval/")}
    for row in rows:
        numbers = {name: float(value) for name, value in row.items() if value is not None}
        for name in rates.keys() & numbers.keys():
            rates[name].append(numbers[name])
        latest |= numbers | {name: fmean(values) for name, values in rates.items() if values}
        completes = evaluated <= numbers.keys() if evaluated else "loss" in numbers
        fraction = numbers.get("step", 0.0) / max_steps
        if completes and fraction > 0:
            values = _values(latest, fraction, cost_per_hour)
            if all(objective.metric in values for objective in objectives):
                yield Report(min(fraction, 1.0), losses(values, objectives))


def _values(latest: Mapping[str, float], fraction: float, cost_per_hour: float) -> dict[str, float]:
    whole_s = latest.get("time_s", 0.0) / fraction
    found = {**latest, "wall_s": whole_s, "cost": cost_per_hour * whole_s / 3600}
    if "loss" in latest:
        found["train/loss"] = latest["loss"]
    return found
