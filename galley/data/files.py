"""Local data files: found by their split, and read row by row: csv, tsv, json, jsonl, parquet, arrow,
txt; the texts among them also compressed with gzip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, Literal

from galley.data.arrow_files import records
from galley.data.delimited_files import delimited_rows
from galley.data.json_files import json_rows, line_rows
from galley.data.text_files import format_of, open_text, stem_of
from galley.errors import DataError, Problem

SplitName = Literal["train", "eval"]
FILE_STEMS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("dev", "validation")}
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt")

MAX_PROBLEMS_PER_FILE = 5

Documents = Literal["file", "line", "paragraph"]
"""What one row of a txt file is; its column is called `text`."""
Row = tuple[int, dict[str, Any]]
"""(line, or record number in json, parquet and arrow, counted from 1; values by column)."""


def shortened(problems: Sequence[Problem], where: str) -> list[Problem]:
    """The first problems of one file, each hint once, and how many there are more."""
    said: set[str] = set()
    found = []
    for problem in problems[:MAX_PROBLEMS_PER_FILE]:
        found.append(replace(problem, hint="") if problem.hint in said else problem)
        said.add(problem.hint)
    rest = len(problems) - MAX_PROBLEMS_PER_FILE
    return [*found, *([Problem(where, f"{rest} more such problems")] if rest > 0 else [])]


def listing(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, …" if len(values) > 8 else shown


def find_files(folder: Path, split: SplitName) -> list[Path]:
    """The files of a split: `train.*`, or the parts `train-*.*` or `train/*` in order of their names.

    Hidden files are none of them (macOS puts a `._NAME` beside every NAME on foreign disks).
    Raises `DataError` where there is none, or more than one of these.
    """
    try:
        here = _data_files(folder)
        found = [[path] for stem in FILE_STEMS[split] for path in here if stem_of(path) == stem]
        for stem in FILE_STEMS[split]:
            parts = [path for path in here if stem_of(path).startswith(f"{stem}-")]
            inside = _saved(folder / stem) or _data_files(folder / stem)
            found += [files for files in (parts, inside) if files]
    except OSError as error:
        raise DataError(Problem(f"data.path={folder}", f"cannot be read: {error.strerror}")) from error
    if len(found) == 1:
        return found[0]
    raise DataError(_several(folder, split, found) if found else _none(folder, split))


def _data_files(folder: Path) -> list[Path]:
    """In order of their names; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in files if format_of(path) in SUFFIXES and path.is_file()]


def _saved(folder: Path) -> list[Path]:
    """The files of a split that `datasets` wrote (`save_to_disk`), which state.json lists."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    try:
        return [folder / entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(Problem(str(state), f"lists no files of a saved data set: {error!r}")) from error


def _several(folder: Path, split: SplitName, found: Sequence[Sequence[Path]]) -> Problem:
    names = ", ".join(str(files[0].relative_to(folder)) for files in found)
    return Problem(f"data.path={folder}", f"has several {split} files: {names}", "keep one of them")


def _none(folder: Path, split: SplitName) -> Problem:
    stems = " or ".join(f"{stem}.*" for stem in FILE_STEMS[split])
    what = f"has no {stems} ({', '.join(suffix[1:] for suffix in SUFFIXES)})"
    if _saved(folder):
        return Problem(f"data.path={folder}", what, "save a DatasetDict, or move all of it into train/")
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return Problem(f"data.path={folder}", what, f"it holds {names}")


def read_rows(path: Path, documents: Documents = "file", skip: int = 0) -> Iterator[Row]:
    """The rows in the order of the file, without the first `skip`.

    Raises `DataError` at the first that cannot be read.
    """
    try:
        yield from _rows(path, documents, skip)
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read: {error.strerror or error}")) from error


def _rows(path: Path, documents: Documents, skip: int) -> Iterator[Row]:
    kind = format_of(path)
    if kind in (".parquet", ".arrow"):
        yield from islice(enumerate(records(path), 1), skip, None)
        return
    with open_text(path, newline=None if kind == ".txt" else "") as stream:
        if kind == ".jsonl":
            yield from line_rows(stream, path, skip)
        elif kind == ".json":
            yield from islice(json_rows(stream.read(), path), skip, None)
        elif kind == ".txt":
            yield from islice(_texts(stream, documents), skip, None)
        else:
            usual = "\t" if kind == ".tsv" else ","
            yield from islice(delimited_rows(stream, path, usual), skip, None)


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
