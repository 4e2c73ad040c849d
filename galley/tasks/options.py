"""`task.options` of a task from an installed package, read into the dataclass of its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from galley.errors import ConfigError, Problem, valid_values
from galley.spec import adapter
from galley.tasks.base import TaskDescription


def read_options(task: TaskDescription, values: Mapping[str, Any]) -> Any:
    """The values as the task's dataclass, or as they are if it has none. Raises `ConfigError`."""
    problems = list(option_problems(task, values))
    if problems:
        raise ConfigError(problems)
    return values if task.options is None else adapter(task.options).validate_python(dict(values))


def option_problems(task: TaskDescription, values: Mapping[str, Any]) -> Iterator[Problem]:
    """Options that the task does not have, and values that do not fit."""
    if task.options is None:
        return
    valid = [field.name for field in fields(task.options)]
    unknown = [name for name in values if name not in valid]
    for name in unknown:
        what = f"'{name}' is not an option of task '{task.name}'"
        yield Problem(f"task.options.{name}", what, valid_values(name, valid))
    try:
        adapter(task.options).validate_python({name: values[name] for name in values if name in valid})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            where = ".".join(("task.options", *map(str, detail["loc"])))
            yield Problem(where, f"{detail['input']!r}: {detail['msg']}", f"see task '{task.name}'")
