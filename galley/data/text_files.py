"""Text files as they come: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one, and any
of them compressed with gzip."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, cast

from galley.errors import DataError, Problem

COMPRESSED = ".gz"
# Longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def format_of(path: Path) -> str:
    """The suffix in lower case, without that of the compression: `.csv` of `TRAIN.CSV.gz`."""
    return Path(_plain_name(path)).suffix


def stem_of(path: Path) -> str:
    """The name in lower case without its suffixes."""
    return Path(_plain_name(path)).stem


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(COMPRESSED)


@contextmanager
def open_text(path: Path, newline: str | None) -> Iterator[IO[str]]:
    """The text of a file in the encoding that its first bytes state, else in UTF-8.

    Raises `DataError` also while it is read: for other encodings, and for a damaged archive.
    """
    encoding = "utf-8-sig"
    try:
        with _open(path) as head:
            encoding = _encoding(head.read(4), path)
        with _open(path) as binary, TextIOWrapper(binary, encoding, newline=newline) as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise DataError(_encoding_problem(path, encoding, error)) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(Problem(str(path), f"is not a whole gzip file: {error}")) from error


def _open(path: Path) -> IO[bytes]:
    compressed = path.name.lower().endswith(COMPRESSED)
    return cast("IO[bytes]", gzip.open(path)) if compressed else path.open("rb")


def _encoding(head: bytes, path: Path) -> str:
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if 0 in head:
        what = "begins with a NUL byte among others: it is UTF-16 without its mark, or no text"
        raise DataError(Problem(str(path), what, "convert it, for example with iconv -f utf-16le -t utf-8"))
    return "utf-8-sig"


def _encoding_problem(path: Path, encoding: str, error: UnicodeDecodeError) -> Problem:
    """The decoder only knows its own buffer, so the byte is looked up in the whole file."""
    with _open(path) as stream:
        content = stream.read()
    offset = error.start
    try:
        content.decode(encoding.removesuffix("-sig"))
    except UnicodeDecodeError as whole:
        offset = whole.start
    line = content[:offset].decode(encoding, "ignore").count("\n") + 1
    name = encoding.removesuffix("-sig").upper()
    what = f"is not {name}: byte 0x{content[offset]:02x} at offset {offset}"
    latin = "convert it, for example with iconv -f latin1 -t utf-8"
    return Problem(
        f"{path}:{line}", what, latin if name == "UTF-8" else "it was cut or changed: copy it again"
    )
