"""The names of all recipe keys, read off the schema, and the nearest one to a mistyped key."""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from galley.schema import Recipe


@cache
def leaf_types() -> dict[str, Any]:
    """Dotted key -> annotated type, for every key that holds a value rather than a section."""
    found: dict[str, Any] = {}

    def walk(section: type, prefix: str) -> None:
        hints = typing.get_type_hints(section, include_extras=True)
        for field in fields(section):
            key = f"{prefix}{field.name}"
            if is_dataclass(hints[field.name]):
                walk(hints[field.name], f"{key}.")
            else:
                found[key] = hints[field.name]

    walk(Recipe, "")
    return found


def defined_in(key: str) -> str:
    """The file that gives `key` its type and default, as `galley/schema/training.py`."""
    section: Any = Recipe
    for name in key.split("."):
        hint = typing.get_type_hints(section).get(name)
        if not is_dataclass(hint):
            break
        section = hint
    return f"{section.__module__.replace('.', '/')}.py"


@cache
def sections() -> list[str]:
    """Keys that hold further keys, such as `model` and `model.lora`."""
    parts = [leaf.split(".") for leaf in leaf_types()]
    return sorted({".".join(names[:n]) for names in parts for n in range(1, len(names))})


def is_known(key: str) -> bool:
    """Whether `key` is a section, a value, or an entry of a free mapping (`launcher.env.X`)."""
    return key in leaf_types() or key in sections() or free_mapping(key) is not None


def free_mapping(key: str) -> str | None:
    """The mapping of free keys that `key` lies in, if it does."""
    for leaf, annotation in leaf_types().items():
        if key.startswith(f"{leaf}.") and typing.get_origin(annotation) is dict:
            return leaf
    return None


def suggest(key: str) -> str:
    """The key that was probably meant: the same name at its right place, else the nearest name."""
    known = list(leaf_types())
    last = key.split(".")[-1]
    same_name = [leaf for leaf in known if leaf.split(".")[-1] == last]
    if same_name:
        return _question(same_name[:3])
    by_path = difflib.get_close_matches(key, known + sections(), n=1, cutoff=0.75)
    if by_path:
        return _question(by_path)
    names = {leaf.split(".")[-1]: leaf for leaf in known}
    by_name = difflib.get_close_matches(last, list(names), n=1, cutoff=0.7)
    if by_name:
        return _question([names[by_name[0]]])
    section = key.split(".")[0]
    siblings = [leaf for leaf in known if leaf.startswith(f"{section}.")]
    return f"valid: {', '.join(siblings or sorted({leaf.split('.')[0] for leaf in known}))}"


def _question(names: list[str]) -> str:
    return "did you mean " + " or ".join(f"'{name}'" for name in names) + "?"


def accepts(key: str, kind: type) -> bool:
    """Whether the type of `key` has room for values of `kind`."""
    return kind in _members(leaf_types().get(key, kind))


def takes_entries_of(mapping: str, kind: type) -> bool:
    """Whether the free mapping at key `mapping` has room for values of `kind`."""
    entries = _members(typing.get_args(leaf_types()[mapping])[1])
    return kind in entries or Any in entries


def text_mappings() -> list[str]:
    """Keys of the free mappings whose entries are text and nothing else."""
    mappings = [key for key, kind in leaf_types().items() if typing.get_origin(kind) is dict]
    return [key for key in mappings if _members(typing.get_args(leaf_types()[key])[1]) == {str}]


def _members(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(_members(member) for member in typing.get_args(annotation)))
    return {annotation}
