"""Any number of classes for a text or a pair of texts."""

from __future__ import annotations

from galley.data.check import check_class_sets
from galley.tasks.base import LABEL_METRICS, TaskDescription

TASK = TaskDescription(
    name="multi_label_classification",
    implementation="trainer.tasks.multi_label:MultiLabelClassification",
    metrics=LABEL_METRICS,
    check=check_class_sets,
    labeled=True,
    learns_names=True,
    tensor_parallel=True,
    hub_task="text-classification",
)
