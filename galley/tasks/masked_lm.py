"""The tokens of a text that were hidden."""

from __future__ import annotations

from galley.data.roles import TEXT
from galley.tasks.base import TOKEN_METRICS, TaskDescription, whole_text

TASK = TaskDescription(
    name="masked_lm",
    implementation="trainer.tasks.language_modeling:MaskedLM",
    metrics=TOKEN_METRICS,
    roles=(TEXT,),
    streamed=True,
    tensor_parallel=True,
    answered_tokens=whole_text,
    hub_task="fill-mask",
)
