"""The tasks: a torch-free description each, loaded when a recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.metrics import RUN_METRICS, Metric
from galley.registry import TASKS
from galley.schema import Recipe
from galley.tasks.base import TaskDescription
from galley.tasks.reports import declared_reports, own_metrics


def task_of(recipe: Recipe) -> TaskDescription:
    """The description of the task that `task.kind` names.

    That of a class of the user's, `MODULE:CLASS`, is read from its file; nothing of it is imported. A name
    that is not a task has a description without an implementation, so that the other rules go on. Raises
    `ConfigError` if an installed package brings something else than a description.
    """
    kind = recipe.task.kind
    if ":" in kind:
        metrics = own_metrics(declared_reports(kind, [Path(folder) for folder in recipe.plugins]))
        # Its loss may call the model in any way, which a pipeline does not carry.
        return TaskDescription(
            name=kind, implementation=kind, metrics=metrics, reports_any=True, tensor_parallel=True
        )
    if kind not in TASKS:
        return TaskDescription(name=kind, implementation="", metrics=own_metrics({}), reports_any=True)
    return _loaded(kind)


def built_in_tasks() -> list[TaskDescription]:
    """The descriptions of Galley's own tasks."""
    return [_loaded(name) for name in TASKS.built_in]


def names_of(supports: Callable[[TaskDescription], bool]) -> list[str]:
    """The names of Galley's own tasks that support something, in alphabetical order, for messages."""
    return sorted(task.name for task in built_in_tasks() if supports(task))


def _loaded(name: str) -> TaskDescription:
    found = TASKS.load(name)
    if not isinstance(found, TaskDescription):
        what = f"the entry point leads to {found!r}, which is not a galley.tasks.base.TaskDescription"
        raise ConfigError(Problem(f"task.kind={name}", what, "see docs/tasks.md"))
    return found


def task_metrics(recipe: Recipe) -> dict[str, Metric]:
    """The metrics of the recipe's evaluation of which the direction is known, the main one first.

    Of a task of the user's own they are `eval/loss`, which every evaluation measures, and what its class
    declares.
    """
    return task_of(recipe).metrics_of(recipe)


def known_metrics(recipe: Recipe) -> dict[str, Metric]:
    """All metrics of the recipe's run of which the direction is known."""
    return {**task_metrics(recipe), **RUN_METRICS}
