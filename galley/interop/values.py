"""How the values of outside files are read: as their engines do, strings included.

A reader returns the value or raises `ValueError` with what was expected. Both engines take
"true" for true, and plain YAML reads 2e8 as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Reader = Callable[[Any], Any]
TRUE = ("true", "yes", "on", "y", "t", "1")
FALSE = ("false", "no", "off", "n", "f", "0")


def is_auto(value: Any) -> bool:
    """`"auto"`: the value is the training program's to give."""
    return isinstance(value, str) and value.lower() == "auto"


def boolean(value: Any) -> bool:
    word = str(value).lower()
    if isinstance(value, bool | int | str) and word in TRUE + FALSE:
        return word in TRUE
    raise ValueError("expected true or false")


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError("expected a number") from None


def integer(value: Any) -> int:
    found = number(value)
    if not found.is_integer():
        raise ValueError("expected a whole number")
    return int(found)


def plain_number(value: Any) -> int | float:
    """Whole numbers as integers, however they are written: 2e8 is 200000000."""
    found = number(value)
    return int(found) if found.is_integer() else found


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected text")


def numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number(item) for item in value]
    raise ValueError("expected a list of numbers")


def mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError("expected a mapping")


def names(value: Any) -> list[str]:
    """A list, or names with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return [part.strip() for part in parts if part.strip()]
    raise ValueError("expected names with commas between them")


def choice(values: Mapping[str, Any]) -> Reader:
    """One of the names, upper or lower case, as what it stands for."""

    def read(value: Any) -> Any:
        found = str(value).lower()
        if found not in values:
            raise ValueError("expected one of " + ", ".join(values))
        return values[found]

    return read


def numbered(options: Sequence[str]) -> Reader:
    """One of the names, or its number counted from 1, as the name."""

    def read(value: Any) -> str:
        word = str(value).upper()
        if word in options:
            return word
        if not isinstance(value, bool) and word.isdigit() and 1 <= int(word) <= len(options):
            return options[int(word) - 1]
        listing = ", ".join(f"{i} {option}" for i, option in enumerate(options, 1))
        raise ValueError(f"expected one of {listing}")

    return read
