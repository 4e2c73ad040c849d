"""Overrides as a user types them: words that Hydra's grammar reads back to the same value."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

_NAME = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_OTHER_WORDS = ("true", "false", "null", "inf", "nan")
_PART_OF_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*|0|[1-9][0-9]*")
_ESCAPED_IN_KEY = re.compile(r"[\\()\[\]{}:=, \t]")


def shell_word(path: Sequence[str], value: Any) -> str:
    """`override`, quoted for the shell."""
    return shlex.quote(override(path, value))


def override(path: Sequence[str], value: Any) -> str:
    """KEY=VALUE. A name that the grammar has no word for, such as `a.b`, stands in a mapping."""
    names = list(path)
    first = next((n for n, name in enumerate(names) if not _PART_OF_KEY.fullmatch(name)), len(names))
    for name in reversed(names[first:]):
        value = {name: value}
    return f"{'.'.join(names[:first])}={literal(value)}"


def literal(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(str(name))}:{literal(one)}" for name, one in value.items()) + "}"
    return _text(value) if isinstance(value, str) else repr(value)


def _key(name: str) -> str:
    """Keys have no quotes in this grammar: what is special in one is escaped."""
    return _ESCAPED_IN_KEY.sub(lambda found: f"\\{found[0]}", name)


def _text(text: str) -> str:
    if _NAME.fullmatch(text) and text.lower() not in _OTHER_WORDS:
        return text
    # Backslashes count as escapes only before a quote, and so before the closing one.
    inner = re.sub(r'(\\*)"', lambda found: f'{found[1] * 2}\\"', text)
    trailing = len(inner) - len(inner.rstrip("\\"))
    return f'"{inner}{chr(92) * trailing}"'
