"""What is learned from the data: a module each, imported when a recipe asks for it."""

from __future__ import annotations

from typing import Any

from galley.plugins import own_class
from galley.registry import TASKS, load_attribute
from galley.schema import Recipe
from galley.tasks import task_of
from trainer.tasks.base import Task


def make_task(recipe: Recipe) -> Task:
    """The torch half of the task that `task.kind` names: by its description, or the user's `MODULE:CLASS`.

    Raises `ConfigError` if there is none.
    """
    description, where = task_of(recipe), f"{TASKS.key}={recipe.task.kind}"
    if description.own:
        return own_class(where, description.implementation, Task)(recipe)
    half: Any = load_attribute(where, description.implementation)
    made: Task = half(recipe)
    return made
