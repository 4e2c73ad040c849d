"""Ending trials early."""

from __future__ import annotations

from hpo.study import Study
from hpo.values import Trial


class Pruner:
    """Judges nothing."""

    def judge(self, trial: Trial) -> str:
        """Why this running trial is to be ended; empty where it goes on."""
        return ""

    def ended(self, trial: Trial) -> None:
        """A trial has ended."""


def make_pruner(study: Study) -> Pruner:
    """The pruner that `hpo.pruning.kind` names."""
    return Pruner()
