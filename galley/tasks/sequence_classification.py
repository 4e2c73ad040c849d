"""One class for a text or a pair of texts."""

from __future__ import annotations

from galley.data.check import check_data
from galley.tasks.base import LABEL_METRICS, TaskDescription

TASK = TaskDescription(
    name="sequence_classification",
    implementation="trainer.tasks.sequence_classification:SequenceClassification",
    metrics=LABEL_METRICS,
    check=check_data,
    labeled=True,
    learns_names=True,
    tensor_parallel=True,
    searched=("task.classification.",),
    hub_task="text-classification",
)
