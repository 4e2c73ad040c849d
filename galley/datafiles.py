"""Local data files: found by their split, and read row by row: csv, tsv, json, jsonl, parquet, arrow,
txt."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, Literal

from galley.errors import ConfigError, Problem

SplitName = Literal["train", "eval"]
FILE_STEMS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("dev", "validation")}
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt")

MAX_PROBLEMS_PER_FILE = 5

Documents = Literal["file", "line", "paragraph"]
"""What one row of a txt file is; its column is called `text`."""
Row = tuple[int, dict[str, Any]]
"""(line, or record number in json, parquet and arrow, counted from 1; values by column)."""


class DataError(ConfigError):
    """The data cannot be used; every problem found is listed."""


def shortened(problems: Sequence[Problem], where: str) -> list[Problem]:
    """The first problems of one file, each hint once, and how many there are more."""
    said: set[str] = set()
    found = []
    for problem in problems[:MAX_PROBLEMS_PER_FILE]:
        found.append(replace(problem, hint="") if problem.hint in said else problem)
        said.add(problem.hint)
    rest = len(problems) - MAX_PROBLEMS_PER_FILE
    return [*found, *([Problem(where, f"{rest} more such problems")] if rest > 0 else [])]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, …" if len(values) > 8 else shown


def find_files(folder: Path, split: SplitName) -> list[Path]:
    """The files of a split: `train.*`, or the parts `train-*.*` or `train/*` in order of their names.

    Raises `DataError` where there is none, or more than one of these.
    """
    candidates = [folder / f"{stem}{suffix}" for stem in FILE_STEMS[split] for suffix in SUFFIXES]
    found = [[path] for path in candidates if path.is_file()]
    for stem in FILE_STEMS[split]:
        for parts in (folder.glob(f"{stem}-*"), folder.glob(f"{stem}/*")):
            files = sorted(path for path in parts if path.suffix in SUFFIXES and path.is_file())
            found += [files] if files else []
    if len(found) == 1:
        return found[0]
    stems = " or ".join(f"{stem}.*" for stem in FILE_STEMS[split])
    if found:
        names = ", ".join(str(files[0].relative_to(folder)) for files in found)
        raise DataError(
            Problem(f"data.path={folder}", f"has several {split} files: {names}", "keep one of them")
        )
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    what = f"has no {stems} ({', '.join(suffix[1:] for suffix in SUFFIXES)})"
    raise DataError(Problem(f"data.path={folder}", what, f"it holds {names}"))


def read_rows(path: Path, documents: Documents = "file", skip: int = 0) -> Iterator[Row]:
    """The rows in the order of the file, without the first `skip`.

    Raises `DataError` at the first that cannot be read.
    """
    try:
        yield from _rows(path, documents, skip)
    except UnicodeDecodeError as error:
        raise DataError(_encoding_problem(path, error)) from error
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read: {error.strerror or error}")) from error


def _rows(path: Path, documents: Documents, skip: int) -> Iterator[Row]:
    if path.suffix in (".parquet", ".arrow"):
        yield from islice(enumerate(_records(path), 1), skip, None)
        return
    # Spreadsheets write a byte order mark, GLUE's files carry one.
    newline = None if path.suffix == ".txt" else ""
    with path.open(encoding="utf-8-sig", newline=newline) as stream:
        if path.suffix == ".jsonl":
            lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
            for number, line in islice(lines, skip, None):
                yield number, _json_object(line.rstrip(), path, number)
        elif path.suffix == ".json":
            yield from islice(enumerate(_json_objects(stream.read(), path), 1), skip, None)
        elif path.suffix == ".txt":
            yield from islice(_texts(stream, documents), skip, None)
        else:
            yield from islice(_delimited(stream, path), skip, None)


def _texts(stream: IO[str], documents: Documents) -> Iterator[Row]:
    """Texts that are not blank, each with the line that it starts in."""
    if documents == "file":
        text = stream.read()
        yield from [(1, {"text": text})] if text.strip() else []
    elif documents == "line":
        yield from ((n, {"text": line.rstrip("\n")}) for n, line in enumerate(stream, 1) if line.strip())
    else:
        for blank, lines in groupby(enumerate(stream, 1), key=lambda line: not line[1].strip()):
            paragraph = list(lines)
            if not blank:
                yield paragraph[0][0], {"text": "".join(line for _, line in paragraph).rstrip("\n")}


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from _parquet_records(path) if path.suffix == ".parquet" else _arrow_records(path)
    except ImportError as error:
        hint = "install Galley's extra `train`, or convert the file to csv or jsonl"
        what = f"{path.suffix[1:]} needs the package pyarrow"
        raise DataError(Problem(str(path), what, hint)) from error


def _arrow_records(path: Path) -> Iterator[dict[str, Any]]:
    """Of both formats of Arrow: the stream, which `datasets` writes, and the file."""
    import pyarrow as arrow

    try:
        with arrow.memory_map(str(path)) as stored:
            is_file = stored.read(6) == b"ARROW1"
            stored.seek(0)
            opened = arrow.ipc.open_file(stored) if is_file else arrow.ipc.open_stream(stored)
            count = range(opened.num_record_batches) if is_file else None
            for batch in opened if count is None else map(opened.get_batch, count):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise DataError(Problem(str(path), f"is not a whole arrow file: {error}")) from error


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as stored:
            for batch in stored.iter_batches():
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise DataError(Problem(str(path), f"is not a whole parquet file: {error}")) from error


def _json_object(text: str, path: Path, line: int) -> dict[str, Any]:
    value = _parse_json(text, path, line)
    if not isinstance(value, dict):
        raise DataError(Problem(f"{path}:{line}", "is not an object", 'a line is {"text": …, "label": …}'))
    return value


def _json_objects(text: str, path: Path) -> list[dict[str, Any]]:
    value = _parse_json(text, path) if text.strip() else []
    records = value.get("data") if isinstance(value, dict) else value
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        hint = 'the file is [{"text": …, "label": …}, …]'
        raise DataError(Problem(str(path), "is not a list of objects", hint))
    return records


def _parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{first_line + error.lineno - 1}"
        raise DataError(Problem(where, f"is not JSON: {error.msg} at column {error.colno}")) from error


def _delimited(stream: Any, path: Path) -> Iterator[Row]:
    # GLUE's tsv files hold lone quotation marks: tabs separate, nothing quotes.
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    reader = csv.reader(stream, strict=True, **options)
    try:
        header = next(reader, [])
        for values in reader:
            if values and len(values) != len(header):
                what = f"has {len(values)} values, the header {len(header)}"
                raise DataError(Problem(f"{path}:{reader.line_num}", what))
            if values:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(Problem(f"{path}:{reader.line_num}", f"cannot be read: {error}")) from error


def _encoding_problem(path: Path, error: UnicodeDecodeError) -> Problem:
    """The decoder only knows its own buffer, so the byte is looked up in the whole file."""
    content, offset = path.read_bytes(), error.start
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as whole:
        offset = whole.start
    line = content.count(b"\n", 0, offset) + 1
    what = f"is not UTF-8: byte 0x{content[offset]:02x} at offset {offset}"
    return Problem(f"{path}:{line}", what, "convert it, for example with iconv -f latin1 -t utf-8")
