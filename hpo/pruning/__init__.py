"""End trials early if others do better at the same share of their training.

A trial reports through its metrics.jsonl, like every run: Optuna has no channel for several
objectives. A pruner reads all that it knows from the run folders, so that a new controller knows it, too.
"""

from __future__ import annotations

from hpo.pruning.base import Pruner
from hpo.study.state import Study


def make_pruner(study: Study) -> Pruner:
    """Return the pruner that `hpo.pruning.kind` names."""
    from hpo.pruning.median import MedianPruner
    from hpo.pruning.rungs import RungPruner

    kind = study.hpo.pruning.kind
    if kind == "none":
        return Pruner()
    return MedianPruner(study) if kind == "median" else RungPruner(study)
