"""Classes of the user's own, by import path: from the folders in `plugins` alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from galley.errors import ConfigError, Problem, valid_values

T = TypeVar("T")

_folders: list[Path] = []


def add_folders(folders: Iterable[Path]) -> None:
    """Make modules in `folders` importable, behind everything else: they cannot replace a module."""
    for folder in folders:
        if folder.resolve() not in _folders:
            _folders.append(folder.resolve())
            sys.path.append(str(folder))


def own_class(where: str, word: str, base: Callable[..., T]) -> Callable[..., T]:
    """The class that `MODULE:CLASS` names, a subclass of `base`.

    `base` is a class; it may be abstract. Raises `ConfigError` where the module is not of an added
    folder, or has no such class.
    """
    module_name, _, name = word.partition(":")
    module = import_module(module_name)
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if not any(file.is_relative_to(folder) for folder in _folders):
        what = f"module '{module_name}' is not in a folder of plugins, but {module.__file__ or 'built in'}"
        raise ConfigError(Problem(where, what, "give your module a name of its own"))
    kind = cast("type[Any]", base)  # as a parameter, `type[T]` would refuse an abstract class
    made: Any = getattr(module, name, None)
    if not (isinstance(made, type) and issubclass(made, kind)):
        what = f"'{name}' is not a subclass of {kind.__module__}.{kind.__qualname__}"
        valid = [key for key, value in vars(module).items() if _is_own(value, kind, module_name)]
        raise ConfigError(Problem(where, what, valid_values(name, valid) if valid else ""))
    found: Callable[..., T] = made
    return found


def _is_own(value: object, base: type, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == module
