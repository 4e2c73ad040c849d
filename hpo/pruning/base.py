"""The seam of the pruners."""

from __future__ import annotations

from hpo.study.values import Trial


def may_win(trial: Trial, sees_bounds: bool) -> bool:
    """Whether a trial may still be better than another one at the end, and can be a reason to end that one.

    Not one that failed, or that ended beyond a bound. If `sees_bounds` is false, some bound is of a metric
    that only the end of a run tells: then only a trial that has ended within its bounds.
    """
    if trial.state in ("running", "pruned", "cancelled"):
        return sees_bounds
    return trial.state == "succeeded" and trial.feasible


class Pruner:
    """Judges nothing."""

    def judge(self, trial: Trial) -> str:
        """Why this running trial is to be ended; empty where it goes on. Cheap where nothing is new."""
        return ""
