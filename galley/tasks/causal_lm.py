"""The next token of a text."""

from __future__ import annotations

from galley.data.roles import TEXT
from galley.tasks.base import TOKEN_METRICS, TaskDescription, whole_text

TASK = TaskDescription(
    name="causal_lm",
    implementation="trainer.tasks.language_modeling:CausalLM",
    metrics=TOKEN_METRICS,
    roles=(TEXT,),
    streamed=True,
    special_tokens=False,
    tensor_parallel=True,
    pipeline_parallel=True,
    headed=True,
    answered_tokens=whole_text,
    hub_task="text-generation",
)
