"""A number for a text or a pair of texts."""

from __future__ import annotations

from galley.data.check import check_numbers
from galley.metrics import CORRELATION, ERROR
from galley.tasks.base import TaskDescription

TASK = TaskDescription(
    name="sequence_regression",
    implementation="trainer.tasks.sequence_regression:SequenceRegression",
    metrics={
        "eval/spearman": CORRELATION, "eval/pearson": CORRELATION, "eval/mse": ERROR, "eval/loss": ERROR
    },
    check=check_numbers,
    labeled=True,
    learns_names=True,
    tensor_parallel=True,
    hub_task="text-classification",
)  # fmt: skip
