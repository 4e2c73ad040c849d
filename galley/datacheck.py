"""Local data files: found, read and checked, line by line, without torch.

The one reader of csv, tsv, json, jsonl and parquet: the command uses it to refuse bad data before
anything is started, the worker to load the same data.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from galley.errors import ConfigError, Problem, nearest
from galley.schema import Data

SplitName = Literal["train", "eval"]
FILE_STEMS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("dev", "validation")}
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")

# Header of GLUE's MRPC files, which name neither text nor label as anybody else does.
GLUE_MRPC = (("#1 String", "#2 String"), "Quality")
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
SINGLE_TEXT_NAMES = ("sentence", "text")
LABEL_NAMES = ("label", "labels")

# Before a launch no more is read than takes about a second; the worker reads and checks all.
ROWS_BEFORE_LAUNCH = 100_000
MAX_PROBLEMS_PER_FILE = 5


@dataclass(frozen=True)
class Columns:
    """The columns in use: one text column, or two for pairs."""

    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Split:
    """One split, read and checked.

    Attributes:
        texts: one column after the other, each as long as `labels`.
        where: the file, for messages.
    """

    texts: tuple[list[str], ...]
    labels: list[int]
    where: str


Row = tuple[int, dict[str, Any]]
"""(line or record number, counted from 1; values by column)."""


class DataError(ConfigError):
    """The data cannot be used; every problem found is listed."""


def check_data(data: Data) -> list[Problem]:
    """What is wrong with the files of `data.path`; empty where the data is not local."""
    if data.path is None:
        return []
    try:
        load_splits(data, limit=ROWS_BEFORE_LAUNCH)
    except DataError as error:
        return list(error.problems)
    return []


def load_splits(data: Data, limit: int | None = None) -> dict[SplitName, Split]:
    """Both splits of `data.path`. Raises `DataError` with the problems of both."""
    folder = Path(str(data.path)).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(Problem(f"data.path={data.path}", what, "a folder with train.* and dev.* files"))
    found: dict[SplitName, Split] = {}
    problems: list[Problem] = []
    for name in FILE_STEMS:
        try:
            found[name] = _load_split(find_file(folder, name), data, limit)
        except DataError as error:
            problems += error.problems
    if not problems:
        problems += check_labels(found)
    if problems:
        raise DataError(problems)
    return found


def find_file(folder: Path, split: SplitName) -> Path:
    """The file of a split. Raises `DataError` where there is none, or more than one."""
    candidates = [folder / f"{stem}{suffix}" for stem in FILE_STEMS[split] for suffix in SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) == 1:
        return found[0]
    stems = " or ".join(f"{stem}.*" for stem in FILE_STEMS[split])
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(
            Problem(f"data.path={folder}", f"has several {split} files: {names}", "keep one of them")
        )
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    what = f"has no {stems} ({', '.join(suffix[1:] for suffix in SUFFIXES)})"
    raise DataError(Problem(f"data.path={folder}", what, f"it holds {names}"))


def _load_split(path: Path, data: Data, limit: int | None) -> Split:
    try:
        rows = list(islice(_read_rows(path), limit))
    except UnicodeDecodeError as error:
        raise DataError(_encoding_problem(path, error)) from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise DataError(Problem(str(path), f"cannot be read: {error}")) from error
    if not rows:
        raise DataError(Problem(str(path), "has no samples"))
    return to_split(rows, find_columns(list(rows[0][1]), data, str(path)), str(path))


def _read_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
        return
    # Spreadsheets write a byte order mark, GLUE's files carry one.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        if path.suffix == ".jsonl":
            yield from ((n, json.loads(line)) for n, line in enumerate(stream, 1) if line.strip())
        elif path.suffix == ".json":
            yield from enumerate(_json_records(json.load(stream), path), 1)
        else:
            yield from _delimited(stream, path)


def _json_records(value: Any, path: Path) -> list[dict[str, Any]]:
    records = value.get("data") if isinstance(value, dict) else value
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(
            Problem(str(path), "is not a list of objects", 'expected [{"text": …, "label": …}, …]')
        )
    return records


def _delimited(stream: Any, path: Path) -> Iterator[Row]:
    # GLUE's tsv files hold lone quotation marks: tabs separate, nothing quotes.
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    reader = csv.reader(stream, strict=True, **options)
    header = next(reader, None)
    if header is None:
        return
    for values in reader:
        if len(values) != len(header):
            what = f"has {len(values)} columns, the header {len(header)}"
            raise DataError(Problem(f"{path}:{reader.line_num}", what))
        yield reader.line_num, dict(zip(header, values, strict=True))


def _encoding_problem(path: Path, error: UnicodeDecodeError) -> Problem:
    """The decoder only knows its own buffer, so the byte is looked up in the whole file."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
        offset = error.start
    except UnicodeDecodeError as whole:
        offset = whole.start
    line = content.count(b"\n", 0, offset) + 1
    what = f"is not UTF-8: byte 0x{content[offset]:02x} at offset {offset}"
    return Problem(f"{path}:{line}", what, "convert it, for example with iconv -f latin1 -t utf-8")


def find_columns(header: Sequence[str], data: Data, where: str) -> Columns:
    """The columns that the recipe names; GLUE's MRPC header, or usual names, where it names none.

    Raises `DataError` with the nearest names.
    """
    if {*GLUE_MRPC[0], GLUE_MRPC[1]} <= {*header} and data.label_column not in header:
        return Columns(*GLUE_MRPC)
    problems = []
    texts = tuple(data.text_columns) if data.text_columns else _usual_texts(header)
    label = data.label_column or next((name for name in LABEL_NAMES if name in header), None)
    if not texts:
        problems.append(_no_column(where, "data.text_columns", None, header))
    problems += [_no_column(where, "data.text_columns", name, header) for name in texts if name not in header]
    if label is None or label not in header:
        problems.append(_no_column(where, "data.label_column", label, header))
    if len(texts) > 2:
        problems.append(Problem("data.text_columns", f"names {len(texts)} columns", "one, or two for pairs"))
    if problems or label is None:
        raise DataError(problems)
    return Columns(texts, label)


def _usual_texts(header: Sequence[str]) -> tuple[str, ...]:
    pairs = [pair for pair in TEXT_NAMES if set(pair) <= set(header)]
    single = [(name,) for name in SINGLE_TEXT_NAMES if name in header]
    return next(iter([*pairs, *single]), ())


def _no_column(where: str, key: str, name: str | None, header: Sequence[str]) -> Problem:
    what = f"has no column '{name}'" if name else "has no column that is recognized"
    hint = " ".join(filter(None, (nearest(name or "", header), f"set {key}; columns: {', '.join(header)}")))
    return Problem(where, what, hint)


def to_split(rows: Sequence[Row], columns: Columns, where: str) -> Split:
    """Texts and labels of the rows. Raises `DataError` that names the first lines that are wrong."""
    problems: list[Problem] = []
    labels: list[int] = []
    for line, row in rows:
        try:
            labels.append(_label(row.get(columns.label)))
        except ValueError as error:
            problems.append(Problem(f"{where}:{line}", f"column '{columns.label}': {error}"))
        for name in columns.texts:
            if not isinstance(row.get(name), str):
                problems.append(Problem(f"{where}:{line}", f"column '{name}': {row.get(name)!r} is not text"))
    if problems:
        rest = len(problems) - MAX_PROBLEMS_PER_FILE
        more = [Problem(where, f"{rest} more such lines")] if rest > 0 else []
        raise DataError(problems[:MAX_PROBLEMS_PER_FILE] + more)
    return Split(tuple([str(row[name]) for _, row in rows] for name in columns.texts), labels, where)


def _label(value: Any) -> int:
    """A class: an integer from 0, also as text. Raises `ValueError` on anything else."""
    try:
        number = int(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
            return number
    except ValueError:
        pass
    raise ValueError(f"{value!r} is not a class number (0, 1, …)")


def check_labels(splits: dict[SplitName, Split]) -> list[Problem]:
    """The rules between labels: two classes at least, and none in evaluation that training lacks."""
    train, held_out = splits["train"], splits["eval"]
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        return [
            Problem(
                train.where,
                f"all {len(train.labels)} samples have label {classes[0]}",
                "two classes at least",
            )
        ]
    unseen = sorted(set(held_out.labels) - set(classes))
    if unseen:
        what = f"has labels {unseen} that {train.where} does not have"
        return [Problem(held_out.where, what, f"labels of training: {classes}")]
    return []
