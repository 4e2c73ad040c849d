"""Check values against the table of fields: unknown, missing, or of another type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from galley.errors import Problem, valid_values
from launchers.k8s.validation.fields import Fields, Kind, ListOf, MapOf

# A quantity, as the CRDs and the API server read it.
_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))?"
)


def type_problems(value: Any, kind: Kind, path: str = "") -> Iterator[Problem]:
    """Yield fields that are unknown, missing or of another type, each with its path."""
    if isinstance(kind, Fields):
        yield from _mapping(value, kind, path)
    elif isinstance(kind, MapOf):
        if not isinstance(value, dict):
            yield _wrong(path, value, "a mapping")
            return
        for key, item in value.items():
            yield from type_problems(item, kind.value, f"{path}.{key}")
    elif isinstance(kind, ListOf):
        yield from _list(value, kind, path)
    elif not _is_scalar(value, kind):
        yield _wrong(path, value, _SCALARS[kind])


def _mapping(value: Any, kind: Fields, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield _wrong(path, value, "a mapping")
        return
    for name in kind.required:
        if name not in value:
            yield Problem(_join(path, name), "is required")
    for name, item in value.items():
        if name in kind.of:
            yield from type_problems(item, kind.of[name], _join(path, name))
        else:
            yield Problem(_join(path, str(name)), "is not a field here", valid_values(str(name), kind.of))


def _list(value: Any, kind: ListOf, path: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield _wrong(path, value, "a list")
        return
    if kind.longest is not None and len(value) > kind.longest:
        yield Problem(path, f"has {len(value)} items", f"at most {kind.longest} are allowed")
    for index, item in enumerate(value):
        yield from type_problems(item, kind.item, f"{path}[{index}]")


_SCALARS = {
    "string": "text (quote numbers and true/false)",
    "integer": "a whole number",
    "boolean": "true or false",
    "quantity": "a quantity such as 4, 500m or 16Gi",
    "number or text": "a whole number or text",
}


def _is_scalar(value: Any, kind: str) -> bool:
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int)
    if kind == "number or text":
        return isinstance(value, int | str)
    return isinstance(value, int) or (isinstance(value, str) and _QUANTITY.fullmatch(value) is not None)


def _wrong(path: str, value: Any, expected: str) -> Problem:
    return Problem(path, f"{value!r} is not {expected}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_THOUSANDS = "kMGTPE"
_SCALES = {
    **{small: Fraction(1, 10 ** (9 - 3 * power)) for power, small in enumerate("num")},
    **{large: Fraction(10 ** (3 + 3 * power)) for power, large in enumerate(_THOUSANDS)},
    **{f"{large.upper()}i": Fraction(1024 ** (1 + power)) for power, large in enumerate(_THOUSANDS)},
}


def amount(quantity: str | int) -> Fraction:
    """Return a quantity as a number: `500m` is 1/2, `1Ki` is 1024."""
    text = str(quantity)
    suffix = next((suffix for suffix in (text[-2:], text[-1:]) if suffix in _SCALES), "")
    return Fraction(text.removesuffix(suffix)) * _SCALES.get(suffix, Fraction(1))
