"""Numbers of things in messages: `1 sample`, `2 samples`."""

from __future__ import annotations

_LIKE_CLASS = ("s", "x", "ch", "sh")


def counted(number: int, noun: str) -> str:
    """Return the number and its noun, which is given in the singular."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(_LIKE_CLASS) else 's'}"
