"""A target text for a source text."""

from __future__ import annotations

from collections.abc import Mapping

from galley.data.roles import Role
from galley.metrics import LOSS, PERCENT, Metric
from galley.schema import Recipe
from galley.tasks.base import TaskDescription

ROLES = (
    Role("source", ("source", "input", "question", "article", "text")),
    Role("target", ("target", "output", "response", "answer", "summary", "label")),
)
METRICS = {"eval/bleu": PERCENT, "eval/chrf": PERCENT, "eval/loss": LOSS}


def _reported(recipe: Recipe) -> Mapping[str, Metric]:
    """Without generation, the loss alone is measured."""
    return METRICS if recipe.task.seq2seq.generate else {"eval/loss": LOSS}


def _target(recipe: Recipe) -> int:
    return recipe.task.seq2seq.max_target_length


TASK = TaskDescription(
    name="seq2seq",
    implementation="trainer.tasks.seq2seq:Seq2Seq",
    metrics=METRICS,
    reported=_reported,
    roles=ROLES,
    answered_tokens=_target,
)
