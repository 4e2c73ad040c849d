"""The interface of pruners."""

from __future__ import annotations

from hpo.study.values import Trial


def may_win(trial: Trial, sees_bounds: bool) -> bool:
    """Return whether a trial may still be better than another one at the end.

    Only then it can be a reason to end that one: not if it failed, or ended beyond a bound. If `sees_bounds`
    is false, some bound is of a metric that is known only at the end of a run: then only if the trial has
    ended within its bounds.
    """
    if trial.state in ("running", "pruned", "cancelled"):
        return sees_bounds
    return trial.state == "succeeded" and trial.feasible


class Pruner:
    """A pruner that ends nothing."""

    def judge(self, trial: Trial) -> str:
        """Return why this running trial should end; empty if it continues. Cheap if nothing is new."""
        return ""
