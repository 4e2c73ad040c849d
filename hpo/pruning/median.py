"""The median rule, for one objective (Golovin et al., "Google Vizier", 2017, section 3.2)."""

from __future__ import annotations

from statistics import median

from hpo.pruning.base import Pruner
from hpo.pruning.curves import Curves, Report
from hpo.study import Study
from hpo.values import Trial


class MedianPruner(Pruner):
    """Ends a trial whose best value so far is worse than the median of what the others had by then."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._curves = Curves(study)
        self._seen: dict[int, int] = {}

    def judge(self, trial: Trial) -> str:
        if not self._curves.is_new(trial, self._seen):
            return ""
        settings, own = self._study.hpo.pruning, self._curves.of(trial)
        share = own[-1].fraction
        if share < settings.min_fraction or share >= 1:
            return ""
        others = [
            best(curve, share)
            for curve in (
                self._curves.of(other) for other in self._study.trials if other.number != trial.number
            )
            if curve and curve[-1].fraction >= share
        ]
        if len(others) < max(1, settings.min_trials - 1) or best(own, share) <= median(others):
            return ""
        return f"at {share:.0%} of its training it was worse than the median of {len(others)} others"


def best(curve: list[Report], share: float) -> float:
    """The least loss up to a share of the training; of the first report where there is none before."""
    return min([report.losses[0] for report in curve if report.fraction <= share] or [curve[0].losses[0]])
