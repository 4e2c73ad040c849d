"""Successive halving without barriers, for any number of objectives (`asha`, `hyperband`, `pareto`).

A trial is judged once at each rung, a share of its training, against all that have reached that rung by
then (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020). With several objectives
the order is that of NSGA-II with hypervolume in place of crowding (Beume et al., SMS-EMOA, 2007): first
by non-domination rank, then by how much hypervolume a trial adds to its rank. How far a trial is beyond a
bound counts as one more objective: no trial is ended because of one that is further beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpo import pareto
from hpo.pareto import Point
from hpo.pruning.base import Pruner, may_win
from hpo.pruning.curves import Curves, sees_bounds
from hpo.study.state import Study
from hpo.study.values import Trial


def survives(point: Point, others: Sequence[Point], eta: int) -> bool:
    """Return whether a trial with these losses continues from a rung that the others have reached.

    The best `1/eta` of all continue, rounded up; and a trial that none dominates always does. So a trial of
    the final front is never ended if curves keep their order, that is, if a trial that dominates at a rung
    also dominates at the end.
    """
    points = [point, *others]
    ranks = pareto.ranks(points)
    if ranks[0] == 0:
        return True
    places = -(-len(points) // eta)
    better = sum(rank < ranks[0] for rank in ranks)
    if better >= places:
        return False
    layer = [other for other, rank in zip(points, ranks, strict=True) if rank == ranks[0]]
    shares = pareto.contributions(layer)
    return better + sum(share > shares[0] for share in shares[1:]) < places


def rungs(first: float, eta: int) -> list[float]:
    """Return the shares of the training at which a trial is judged, ascending, below 1."""
    shares = []
    while first < 1:
        shares.append(first)
        first *= eta
    return shares


class RungPruner(Pruner):
    """Judges in one bracket; with `hyperband` in as many as there are rungs.

    A trial belongs to a bracket by its number. Each bracket begins to judge one rung later than the one
    before.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._curves = Curves(study)
        self._rungs = rungs(study.hpo.pruning.min_fraction, study.hpo.pruning.eta)
        self._brackets = len(self._rungs) if study.hpo.pruning.kind == "hyperband" else 1
        self._sees_bounds = sees_bounds(study)
        self._seen: dict[int, int] = {}
        self._judged: set[tuple[int, float]] = set()

    def judge(self, trial: Trial) -> str:
        if not self._curves.is_new(trial, self._seen) or self._curves.of(trial)[-1].fraction >= 1:
            return ""  # ending a finished training saves nothing
        for rung in self._rungs[trial.number % self._brackets :]:
            point = self._at(trial, rung)
            if point is None:
                return ""
            if (trial.number, rung) not in self._judged:
                self._judged.add((trial.number, rung))
                reason = self._judge_at(trial, rung, point)
                if reason:
                    return reason
        return ""

    def _judge_at(self, trial: Trial, rung: float, own_point: Point) -> str:
        """Return why the trial should end at this rung; empty if it survives."""
        settings = self._study.hpo.pruning
        rivals = (other for other in self._study.trials if self._are_rivals(trial, other))
        others = [point for point in (self._at(other, rung) for other in rivals) if point is not None]
        if len(others) + 1 < settings.min_trials or survives(own_point, others, settings.eta):
            return ""
        better = sum(pareto.dominates(other, own_point) for other in others)
        return f"at {rung:.0%} of its training {better} of {len(others)} others were better in everything"

    def _are_rivals(self, trial: Trial, other: Trial) -> bool:
        """Return whether the two trials are compared: they share a bracket, and the other may win."""
        same = other.number % self._brackets == trial.number % self._brackets
        return same and other.number != trial.number and may_win(other, self._sees_bounds)

    def _at(self, trial: Trial, rung: float) -> tuple[float, ...] | None:
        """Return the point of the trial's first report at or after a rung; None before it."""
        points = (report.point for report in self._curves.of(trial) if report.fraction >= rung)
        return next(points, None)
