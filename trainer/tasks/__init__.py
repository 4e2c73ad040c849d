"""What is learned from the data: a module each, imported when a recipe asks for it."""

from __future__ import annotations

from galley.registry import TASKS
from galley.schema import Recipe
from trainer.tasks.base import Task


def make_task(recipe: Recipe) -> Task:
    """The task that `task.kind` names: by its name, or the user's `MODULE:CLASS`.

    Raises `ConfigError` if there is none.
    """
    made: Task = TASKS.load(recipe.task.kind, Task)(recipe)
    return made
