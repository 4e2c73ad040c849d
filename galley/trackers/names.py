"""Names as a tracker takes them, from which the names as they are can be told again.

A character that is not allowed stands as `_xHEX_`, its Unicode number, as in names of XML made of any text
(ISO/IEC 9075-14, SQL/XML). `eval/recall@5` is `eval/recall_x40_5`.
"""

from __future__ import annotations

import hashlib
import re

_LONGEST = 250  # characters: the limit of MLflow's keys
_CODE = re.compile(r"_x([0-9A-F]+)_")
# MLflow joins the parts of a name to a path: these it does not take, in whatever version.
_ILLEGAL = re.compile(r"[^\w. /-]")
_PARTS = ("", ".", "..")


def encoded(name: str) -> str:
    """The name, or one that MLflow takes, with which no other name is confused.

    A name that is too long ends with a part of its sha256 instead, and cannot be told again from it.
    """
    made = _CODE.sub(lambda match: f"{_code('_')}{match[0][1:]}", name)
    made = _ILLEGAL.sub(lambda match: _code(match[0]), made)
    if any(part in _PARTS for part in made.split("/")):
        made = made.replace("/", _code("/"))
    if made.startswith("..") or made in _PARTS:
        made = made.replace(".", _code("."))
    if len(made) <= _LONGEST:
        return made
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{made[: _LONGEST - len(digest) - 1]}-{digest}"


def decoded(name: str) -> str:
    """The inverse of `encoded`, for names that were not too long."""
    return _CODE.sub(lambda match: chr(int(match[1], 16)), name)


def _code(character: str) -> str:
    return f"_x{ord(character):X}_"
