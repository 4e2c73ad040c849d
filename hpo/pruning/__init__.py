"""Ending trials early, because others do better at the same share of their training.

A trial reports through its metrics.jsonl, as every run does: Optuna has no channel for several
objectives. What a pruner knows is read from the run folders, so that a new controller knows it too.
"""

from __future__ import annotations

from hpo.pruning.base import Pruner
from hpo.study.state import Study


def make_pruner(study: Study) -> Pruner:
    """The pruner that `hpo.pruning.kind` names."""
    from hpo.pruning.median import MedianPruner
    from hpo.pruning.rungs import RungPruner

    kind = study.hpo.pruning.kind
    if kind == "none":
        return Pruner()
    return MedianPruner(study) if kind == "median" else RungPruner(study)
