"""A composed mapping against the schema: every unknown key and every wrong value at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from galley.config.keys import accepts, free_mapping, is_known, leaf_types, suggest, takes_entries_of
from galley.errors import nearest
from galley.quoting import shell_word
from galley.schema import Recipe
from galley.spec import adapter

MISSING = "???"  # OmegaConf's word for a value that has to be given
MUST_BE_GIVEN = "??? (must be given)"  # the same, where a merge must not skip it

Path = tuple[str, ...]
"""The names on the way to a value. A key of a free mapping may have dots in it."""


@dataclass(frozen=True)
class Mistake:
    """A value with a mistake; where it was set is added by the caller."""

    path: Path
    what: str
    hint: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


def validate(container: Mapping[str, Any]) -> tuple[Recipe, list[Mistake]]:
    """The recipe, with the default wherever a value is wrong, and all mistakes that were found.

    Check the list before using the recipe: the defaults only allow further checks to run.
    """
    mistakes = list(_keys_that_are_no_text(container))
    clean = json.loads(json.dumps(container))
    for search in (_unknown_keys, _missing, _bool_for_number):
        found = list(search(clean))
        for mistake in found:
            _remove(clean, mistake.path)
        mistakes += found
    while True:
        try:
            return adapter(Recipe).validate_python(clean), mistakes
        except ValidationError as error:
            wrong = [_mistake(detail) for detail in error.errors(include_url=False)]
            mistakes += _unique(wrong)
            removed = [_remove(clean, mistake.path) for mistake in wrong]
            if not any(removed):
                return Recipe(), mistakes


def _unique(found: list[Mistake]) -> list[Mistake]:
    return list({mistake.key: mistake for mistake in found}.values())


def _leaves(section: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in section.items():
        path = (*prefix, name)
        if isinstance(value, dict) and value and ".".join(path) not in leaf_types():
            yield from _leaves(value, path)
        else:
            yield path, value


def _keys_that_are_no_text(section: Mapping[Any, Any], prefix: Path = ()) -> Iterator[Mistake]:
    """YAML reads an unquoted key `NO` as false. Numbers are left: `{0: negative}` means the text, too."""
    for name, value in section.items():
        path = (*prefix, str(name))
        if name is None or isinstance(name, bool | float):
            hint = (
                f"quote it, for example 'no': {value!r}; YAML reads an unquoted yes/no/on/off as true/false"
            )
            yield Mistake(prefix or path, f"the key {json.dumps(name)} is not text", hint)
        elif isinstance(value, Mapping):
            yield from _keys_that_are_no_text(value, path)


def _unknown_keys(container: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, _ in _leaves(container):
        key = ".".join(path)
        if not is_known(key):
            yield Mistake(path, f"'{key}' is not a key", suggest(key))
        elif any("." in name for name in path[: len((free_mapping(key) or key).split("."))]):
            yield Mistake(path, "has a dot inside a key of a file", "nest the keys: " + _nested(key))


def _nested(key: str) -> str:
    *parents, last = key.split(".")
    return "".join(f"{name}: {{" for name in parents) + f"{last}: …" + "}" * len(parents)


def _missing(container: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, value in _leaves(container):
        if is_known(".".join(path)):
            yield from (
                Mistake(inner, "must be given", f"set {shell_word(inner, 'VALUE')}")
                for inner in _places_of_missing(value, path)
            )


def _places_of_missing(value: Any, path: Path) -> Iterator[Path]:
    inside = value if isinstance(value, list) else [value]
    if any(isinstance(one, str) and one in (MISSING, MUST_BE_GIVEN) for one in inside):
        yield path
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _places_of_missing(one, (*path, name))


def _bool_for_number(container: Mapping[str, Any]) -> Iterator[Mistake]:
    """YAML reads an unquoted `no` as false, which would pass for the number 0 or vanish in a text."""
    for path, value in _entries(container):
        key = ".".join(path)
        if isinstance(value, bool) and is_known(key) and not _takes_bool(key):
            hint = f"{expected(key)}; YAML reads an unquoted yes/no/on/off as true/false: quote it for text"
            if "text" in expected(key):
                hint += f", on the command line {shell_word(path, json.dumps(value))}"
            yield Mistake(path, f"{json.dumps(value)} is not a valid value", hint)


def _entries(container: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """The leaves, and for a free mapping each of its entries."""
    for path, value in _leaves(container):
        if isinstance(value, dict) and value:
            yield from (((*path, name), one) for name, one in value.items())
        else:
            yield path, value


def _takes_bool(key: str) -> bool:
    mapping = free_mapping(key)
    return accepts(key, bool) if mapping is None else takes_entries_of(mapping, bool)


def expected(key: str) -> str:
    """The valid values of a key in words, from its type."""
    schema = json_schema(key)
    return "expected " + (_describe(schema) if schema else "another value")


def json_schema(key: str) -> dict[str, Any]:
    """The JSON schema of one key."""
    from pydantic import TypeAdapter

    mapping = free_mapping(key)
    annotation = leaf_types().get(mapping or key)
    schema = TypeAdapter(annotation).json_schema() if annotation is not None else {}
    entries = schema.get("additionalProperties")
    return entries if mapping is not None and isinstance(entries, dict) else schema


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
    location = tuple(str(part) for part in detail["loc"])
    ends = range(len(location), 0, -1)
    path = next((location[:n] for n in ends if is_known(".".join(location[:n]))), location)
    key = ".".join(path)
    value = json.dumps(detail["input"])
    schema = json_schema(key)
    choices = [str(value) for part in schema.get("anyOf", [schema]) for value in part.get("enum", [])]
    hint = " ".join(filter(None, (nearest(str(detail["input"]), choices), expected(key))))
    if key not in leaf_types() and free_mapping(key) is None:
        hint = f"'{key}' is a section: set {key}.KEY"
    inner = location[len(path) :]
    if inner and inner[0].isdigit():  # an entry of a list of mappings, which `expected` knows nothing of
        return Mistake(path, f"{'.'.join(inner)}: {value} is not a valid value", detail["msg"].lower())
    return Mistake(path, f"{value} is not a valid value", hint)


def _remove(container: dict[str, Any], path: Path) -> bool:
    """Take a value out, or the nearest thing around it that is an entry of a mapping."""
    for end in range(len(path), 0, -1):
        section: Any = container
        for name in path[: end - 1]:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and path[end - 1] in section:
            del section[path[end - 1]]
            return True
    return False
