"""Vectors of texts, of which those of a pair are near each other."""

from __future__ import annotations

from galley.data.roles import Role
from galley.metrics import LOSS, SHARE
from galley.tasks.base import TaskDescription

ROLES = (
    Role("text", ("anchor", "query", "question", "sentence1")),
    Role("partner", ("positive", "answer", "sentence2")),
    Role("negative", ("negative", "hard_negative"), optional=True),
)
TASK = TaskDescription(
    name="contrastive",
    implementation="trainer.tasks.contrastive:Contrastive",
    metrics={"eval/mrr": SHARE, "eval/accuracy": SHARE, "eval/loss": LOSS},
    roles=ROLES,
    one_source_batches=True,
    searched=("task.contrastive.",),
    hub_task="sentence-similarity",
)
