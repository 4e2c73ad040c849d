"""Tasks by name; a task is imported when a recipe asks for it."""

from __future__ import annotations

from importlib import import_module

from galley.schema import Recipe
from trainer.models.user_code import own_class
from trainer.tasks.base import Task

TASKS = {
    "sequence_classification": "trainer.tasks.sequence_classification:SequenceClassification",
    "sequence_regression": "trainer.tasks.sequence_regression:SequenceRegression",
    "multi_label_classification": "trainer.tasks.multi_label:MultiLabelClassification",
    "distillation": "trainer.tasks.distillation:Distillation",
    "question_answering": "trainer.tasks.question_answering:QuestionAnswering",
    "token_classification": "trainer.tasks.token_classification:TokenClassification",
    "contrastive": "trainer.tasks.contrastive:Contrastive",
    "causal_lm": "trainer.tasks.language_modeling:CausalLM",
    "masked_lm": "trainer.tasks.language_modeling:MaskedLM",
    "masked_lm_distillation": "trainer.tasks.masked_distillation:MaskedDistillation",
    "seq2seq": "trainer.tasks.seq2seq:Seq2Seq",
}


def make_task(recipe: Recipe) -> Task:
    """The task of the recipe: one of `TASKS`, or the user's `MODULE:CLASS`.

    Raises `ConfigError` where the user's module has no such task.
    """
    kind = recipe.task.kind
    if kind not in TASKS:
        return own_class(f"task.kind={kind}", kind, Task)(recipe)
    module, name = TASKS[kind].split(":")
    made: Task = getattr(import_module(module), name)(recipe)
    return made
