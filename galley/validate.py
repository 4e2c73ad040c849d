"""A composed mapping against the schema: every unknown key and every wrong value at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from galley.errors import nearest
from galley.keys import accepts, free_mapping, is_known, leaf_types, suggest
from galley.schema import Recipe
from galley.spec import adapter


@dataclass(frozen=True)
class Mistake:
    """One key with a mistake; where it was set is added by the caller."""

    key: str
    what: str
    hint: str


def validate(container: Mapping[str, Any]) -> tuple[Recipe, list[Mistake]]:
    """The recipe, with the default wherever a value is wrong, and all mistakes that were found.

    Check the list before using the recipe: the defaults only allow further checks to run.
    """
    clean = json.loads(json.dumps(container))
    mistakes = list(_unknown_keys(clean)) + list(_bool_for_number(clean))
    for mistake in mistakes:
        _remove(clean, mistake.key)
    while True:
        try:
            return adapter(Recipe).validate_python(clean), mistakes
        except ValidationError as error:
            found = [_mistake(detail) for detail in error.errors(include_url=False)]
            for mistake in found:
                _remove(clean, mistake.key)
            mistakes += _unique(found)


def _unique(found: list[Mistake]) -> list[Mistake]:
    return list({mistake.key: mistake for mistake in found}.values())


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in leaf_types():
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _unknown_keys(container: Mapping[str, Any]) -> Iterator[Mistake]:
    for key, _ in _leaves(container):
        if not is_known(key):
            yield Mistake(key, f"'{key}' is not a key", suggest(key))


def _bool_for_number(container: Mapping[str, Any]) -> Iterator[Mistake]:
    """YAML reads an unquoted `no` as false, which would pass for the number 0 or vanish in a text."""
    for key, value in _leaves(container):
        if isinstance(value, bool) and is_known(key) and not accepts(key, bool):
            hint = f"{expected(key)}; YAML reads an unquoted yes/no/on/off as true/false: quote it for text"
            yield Mistake(key, f"{json.dumps(value)} is not a valid value", hint)


def expected(key: str) -> str:
    """The valid values of a key in words, from its type."""
    schema = json_schema(key)
    return "expected " + (_describe(schema) if schema else "another value")


def json_schema(key: str) -> dict[str, Any]:
    """The JSON schema of one key."""
    from pydantic import TypeAdapter

    annotation = leaf_types().get(free_mapping(key) or key)
    return TypeAdapter(annotation).json_schema() if annotation is not None else {}


def _describe(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(member) for member in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return f"{schema['const']}"
    names = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false"}
    names |= {"array": "a list", "object": "a mapping", "null": "null"}
    text = names.get(str(schema.get("type")), "a value")
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]}" for name, sign in bounds.items() if name in schema]
    return f"{text} {' and '.join(limits)}" if limits else text


def _mistake(detail: Mapping[str, Any]) -> Mistake:
    """A pydantic error as a key of the recipe; the rest of its place is told in words."""
    location = [str(part) for part in detail["loc"]]
    key = next(
        (".".join(location[:n]) for n in range(len(location), 0, -1) if is_known(".".join(location[:n]))),
        ".".join(location),
    )
    value = json.dumps(detail["input"])
    schema = json_schema(key)
    choices = [str(value) for part in schema.get("anyOf", [schema]) for value in part.get("enum", [])]
    hint = " ".join(filter(None, (nearest(str(detail["input"]), choices), expected(key))))
    if key not in leaf_types() and free_mapping(key) is None:
        hint = f"'{key}' is a section: set {key}.KEY"
    inner = location[len(key.split(".")) :]
    if inner and inner[0].isdigit():  # an entry of a list of mappings, which `expected` knows nothing of
        return Mistake(key, f"{'.'.join(inner)}: {value} is not a valid value", detail["msg"].lower())
    return Mistake(key, f"{value} is not a valid value", hint)


def _remove(container: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    section: Any = container
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(last, None)
