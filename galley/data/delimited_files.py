"""Rows of csv and tsv files: which character separates values, and whether they are quoted."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from galley.counting import counted
from galley.errors import DataError, Problem

log = logging.getLogger("galley")

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
# Excel states the separator in a line of its own.
STATED = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
# A file in which every quotation mark belongs to a quoted value.
_FIELD = r'(?:"(?:[^"]++|"")*+"|[^"\t\r\n]*+)'
ALL_QUOTED = re.compile(rf"(?:{_FIELD}(?:\t|\r\n|\n|\r|\Z))*+")
# Inside a quoted value, a mark: where nothing quotes, nobody doubles it.
DOUBLED = re.compile(r'(?:\A|[\t\r\n])"[^"]*""')


def delimited_rows(stream: IO[str], path: Path, usual: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(last line, values by column) of each row; `usual` separates values where the header has it.

    Columns without a name are left out: no key can name them. Raises `DataError`.
    """
    # One value may be a whole document; the module's own limit is 128 KiB.
    csv.field_size_limit(sys.maxsize)
    start, separator = _separator(stream.readline(), usual, path)
    stream.seek(0)
    options: dict[str, Any] = {"delimiter": separator}
    if separator == "\t" and not _is_quoted(stream, path):
        options["quoting"] = csv.QUOTE_NONE
    reader = csv.reader(stream, strict=True, **options)
    try:
        header = [name.strip() for name in next((row for row in reader if reader.line_num > start), [])]
        _check_header(header, f"{path}:{reader.line_num}")
        for values in reader:
            if values and len(values) != len(header):
                what = f"has {counted(len(values), 'value')}, the header {len(header)}"
                raise DataError(Problem(f"{path}:{reader.line_num}", what))
            if values:
                yield reader.line_num, {name: x for name, x in zip(header, values, strict=True) if name}
    except csv.Error as error:
        raise DataError(_unreadable(f"{path}:{reader.line_num}", error)) from error


def _unreadable(where: str, error: csv.Error) -> Problem:
    doubled = "expected after" in str(error)
    hint = "inside a quoted value, write a quotation mark twice" if doubled else ""
    return Problem(where, f"cannot be read: {error}", hint)


def _check_header(header: Sequence[str], where: str) -> None:
    """Raises `DataError` where a name stands for two columns: either could be meant."""
    twice = [name for name, number in Counter(header).items() if name and number > 1]
    if twice:
        places = " and ".join(str(place) for place, name in enumerate(header, 1) if name == twice[0])
        what = f"the header has '{twice[0]}' more than once (columns {places})"
        raise DataError(Problem(where, what, "rename or remove all but one"))


def _separator(first: str, usual: str, path: Path) -> tuple[int, str]:
    """(lines before the header, what separates values).

    It is the usual character, unless the header has one column by it, and more by exactly one other.
    """
    if stated := STATED.fullmatch(first):
        return 1, stated[1]
    widths = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in SEPARATORS}
    others = [mark for mark, width in widths.items() if width > 1]
    if widths[usual] > 1 or len(others) != 1:
        return 0, usual
    log.info("%s: %s separates its values", path, SEPARATORS[others[0]])
    return 0, others[0]


def _is_quoted(stream: IO[str], path: Path) -> bool:
    """Whether values between tabs are quoted as in csv, which GLUE's files with lone marks are not.

    They are if every mark belongs to a quoted value, and the rows without quotes do not fit the header;
    or, where they fit as well, if there is a doubled mark, or a whole column or the header is quoted.
    The stream is at its beginning afterwards.
    """
    has_marks = any('"' in block for block in iter(partial(stream.read, 1 << 20), ""))
    stream.seek(0)
    if not has_marks:
        return False
    text = stream.read()
    stream.seek(0)
    if not ALL_QUOTED.fullmatch(text) or not _shows_quotes(text):
        return False
    log.info("%s: its values are quoted as in csv", path)
    return True


def _shows_quotes(text: str) -> bool:
    plain, quoted = (
        [row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=quoting) if row]
        for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL)
    )
    width = len(plain[0])
    if any(len(row) != width for row in plain):
        return all(len(row) == width for row in quoted)
    evident = DOUBLED.search(text) is not None or _has_quoted_column(plain)
    return evident and (width == 1 or len(quoted) == len(plain))


def _has_quoted_column(rows: Sequence[Sequence[str]]) -> bool:
    header, body = rows[0], rows[1:]
    columns = zip(*body, strict=True) if len(body) > 1 else iter(())
    return any(map(_quoted, header)) or any(all(map(_quoted, column)) for column in columns)


def _quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] == '"'
