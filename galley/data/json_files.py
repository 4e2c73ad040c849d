"""Rows of json files and json lines. What Python's parser takes in silence is refused: a key that stands
twice, and half a character."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from galley.errors import DataError, Problem

Record = dict[str, Any]

LINE = 'a line is {"text": …, "label": …}'
# Only an escape can stand for half of a character: the bytes of one are no UTF-8.
HALF = re.compile(r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)


def line_rows(stream: Iterable[str], path: Path, skip: int = 0) -> Iterator[tuple[int, Record]]:
    """(line, object) of every line that is not blank, behind the first `skip`. Raises `DataError`."""
    lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    for number, line in islice(lines, skip, None):
        yield number, _object(line.rstrip(), path, number)


def json_rows(text: str, path: Path) -> Iterator[tuple[int, Record]]:
    """(number, object) of a list, or of the list under `data`; also of json lines. Raises `DataError`."""
    try:
        value = _parse(text, path) if text.strip() else []
    except _ManyError:
        yield from line_rows(text.split("\n"), path)
        return
    records = value.get("data") if isinstance(value, dict) else value
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        hint = 'the file is [{"text": …, "label": …}, …]'
        raise DataError(Problem(str(path), "is not a list of objects", hint))
    yield from enumerate(records, 1)


class _ManyError(Exception):
    """The text holds several JSON values, one after the other."""


def _object(text: str, path: Path, line: int) -> Record:
    try:
        value = _parse(text, path, line)
    except _ManyError as error:
        raise DataError(Problem(f"{path}:{line}", "holds several values", LINE)) from error
    if not isinstance(value, dict):
        raise DataError(Problem(f"{path}:{line}", "is not an object", LINE))
    return value


def _parse(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _ManyError from error
        where = f"{path}:{first_line + error.lineno - 1}"
        raise DataError(Problem(where, f"is not JSON: {error.msg} at column {error.colno}")) from error
    except _TwiceError as error:
        raise DataError(Problem(f"{path}:{first_line}", str(error), "rename or remove one")) from error
    except (ValueError, RecursionError) as error:
        # Numbers of more than 4300 digits, or lists in lists in lists …
        raise DataError(Problem(f"{path}:{first_line}", f"is not read: {error}")) from error
    if half := HALF.search(text):
        _check_halves(value, f"{path}:{first_line + text.count(chr(10), 0, half.start())}")
    return value


class _TwiceError(ValueError):
    """One object has a key twice."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise _TwiceError(f"an object has the key '{twice}' more than once")
    return found


def _check_halves(value: Any, where: str) -> None:
    """Raises `DataError` for text that no tokenizer can encode: half of a pair of surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        what = f"has half a character: {half} without its other half"
        raise DataError(Problem(where, what, "write the whole character, or remove it")) from error
