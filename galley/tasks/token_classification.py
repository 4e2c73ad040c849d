"""A tag for every word."""

from __future__ import annotations

from galley.data.tags import ROLES, check_tags
from galley.metrics import LOSS, SHARE
from galley.tasks.base import TaskDescription

TASK = TaskDescription(
    name="token_classification",
    implementation="trainer.tasks.token_classification:TokenClassification",
    metrics={
        "eval/f1": SHARE, "eval/precision": SHARE, "eval/recall": SHARE, "eval/accuracy": SHARE,
        "eval/loss": LOSS,
    },
    roles=ROLES,
    check=check_tags,
    learns_names=True,
    tensor_parallel=True,
    hub_task="token-classification",
)  # fmt: skip
