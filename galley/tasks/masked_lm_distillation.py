"""The tokens of a text that were hidden, learned from a teacher's probabilities as well."""

from __future__ import annotations

from galley.data.roles import TEXT
from galley.schema import Recipe
from galley.tasks.base import TOKEN_METRICS, TaskDescription, teacher_problems, whole_text

FP32 = 4


def _extra_logit_bytes(recipe: Recipe) -> float:
    """The gradient of a second loss, and where it is measured (which `soft_positions` says) the student's
    log-softmax, the teacher's probabilities and their difference."""
    masked = recipe.task.distillation.masked.soft_positions == "masked"
    return FP32 + 3 * FP32 * (recipe.task.lm.mask_rate if masked else 1.0)


TASK = TaskDescription(
    name="masked_lm_distillation",
    implementation="trainer.tasks.masked_distillation:MaskedDistillation",
    metrics=TOKEN_METRICS,
    roles=(TEXT,),
    streamed=True,
    taught=True,
    answered_tokens=whole_text,
    extra_logit_bytes=_extra_logit_bytes,
    searched=(
        "task.distillation.temperature", "task.distillation.masked.soft_weight",
        "task.distillation.masked.label_weight", "task.distillation.masked.hidden_weight",
    ),
    hub_task="fill-mask",
    rules=teacher_problems,
)  # fmt: skip
