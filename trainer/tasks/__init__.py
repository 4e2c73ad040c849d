"""Tasks by name; a task is imported when a recipe asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from galley.schema import Recipe

if TYPE_CHECKING:
    from trainer.tasks.base import Task

TASKS = {"sequence_classification": "trainer.tasks.sequence_classification:SequenceClassification"}


def make_task(recipe: Recipe) -> Task:
    """The task of the recipe. The schema admits only names that stand in `TASKS`."""
    module, name = TASKS[recipe.task.kind].split(":")
    task: Task = getattr(import_module(module), name)(recipe)
    return task
