"""One class for a text or a pair of texts, learned from labels and from the logits of a teacher."""

from __future__ import annotations

from galley.data.check import check_data
from galley.tasks.base import LABEL_METRICS, TaskDescription, teacher_problems

TASK = TaskDescription(
    name="distillation",
    implementation="trainer.tasks.distillation:Distillation",
    metrics=LABEL_METRICS,
    check=check_data,
    labeled=True,
    learns_names=True,
    taught=True,
    searched=("task.classification.", "task.distillation.temperature", "task.distillation.weight"),
    hub_task="text-classification",
    rules=teacher_problems,
)
