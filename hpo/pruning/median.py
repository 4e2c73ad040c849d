"""The median rule, for one objective (Golovin et al., "Google Vizier", 2017, section 3.2)."""

from __future__ import annotations

import math
from statistics import median

from hpo.pruning.base import Pruner, may_win
from hpo.pruning.curves import Curves, Report, sees_bounds
from hpo.study.state import Study
from hpo.study.values import Trial


class MedianPruner(Pruner):
    """Ends a trial whose best value so far is worse than the median of the others at that share."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._curves = Curves(study)
        self._sees_bounds = sees_bounds(study)
        self._seen: dict[int, int] = {}

    def judge(self, trial: Trial) -> str:
        if not self._curves.is_new(trial, self._seen):
            return ""
        settings, curve = self._study.hpo.pruning, self._curves.of(trial)
        share = curve[-1].fraction
        if share < settings.min_fraction or share >= 1:
            return ""

        others = [
            best(within, share)
            for within in (
                self._within_bounds(other) for other in self._study.trials if other.number != trial.number
            )
            if within and within[0].fraction <= share <= within[-1].fraction
        ]
        if len(others) < max(1, settings.min_trials - 1) or best(curve, share) <= median(others):
            return ""
        return f"at {share:.0%} of its training it was worse than the median of {len(others)} others"

    def _within_bounds(self, other: Trial) -> list[Report]:
        """Return the reports at which a trial that may win keeps its bounds."""
        if not may_win(other, self._sees_bounds):
            return []
        return [report for report in self._curves.of(other) if report.keeps_bounds]


def best(curve: list[Report], share: float) -> float:
    """Return the least loss up to a share of the training, infinite if none is a number.

    If no report is that early, the first one counts.
    """
    until = [report for report in curve if report.fraction <= share] or curve[:1]
    return min((r.losses[0] for r in until if not math.isnan(r.losses[0])), default=math.inf)
