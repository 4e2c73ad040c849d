"""Data checked without torch: the command refuses bad files before anything is started, with the
functions by which the worker loads the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from galley.counting import counted
from galley.data.arrow_files import declared_names
from galley.data.files import Row, SplitName, find_files, read_rows, shortened
from galley.data.labels import CLASS_SETS, CLASSES, NUMBERS, Labels
from galley.data.local import ROWS_BEFORE_LAUNCH, local_problems
from galley.data.roles import Need, data_folder, splits_read
from galley.data.sampling import limit_key, limited
from galley.data.splits import Split, in_order, joined_splits
from galley.errors import DataError, Problem, nearest
from galley.schema import Data

# Header of GLUE's MRPC files, which name neither text nor label as anybody else does.
GLUE_MRPC = (("#1 String", "#2 String"), "Quality")
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
SINGLE_TEXT_NAMES = ("sentence", "text")


@dataclass(frozen=True)
class Columns:
    """The columns in use: one text column, or two for pairs."""

    texts: tuple[str, ...]
    label: str


def check_numbers(data: Data, need: Need = "both") -> list[Problem]:
    """As `check_data`, for labels that are numbers."""
    return check_data(data, need, NUMBERS)


def check_class_sets(data: Data, need: Need = "both") -> list[Problem]:
    """As `check_data`, for labels that are sets of classes."""
    return check_data(data, need, CLASS_SETS)


def check_data(data: Data, need: Need = "both", labels: Labels | None = None) -> list[Problem]:
    """What is wrong with the local files of the data, and with what is taken of them."""
    kind = labels or CLASSES
    return local_problems(
        data,
        lambda source: load_splits(source, ROWS_BEFORE_LAUNCH, kind, need),
        joined_splits,
        lambda splits: label_problems(data, splits, kind),
    )


def load_splits(
    data: Data, limit: int | None = None, labels: Labels | None = None, need: Need = "both"
) -> dict[SplitName, Split]:
    """The splits of `data.path` that are read, the first `limit` rows of each file.

    Raises `DataError` with the problems of all. The rules between labels are `label_problems`.
    """
    folder = data_folder(data)
    found: dict[SplitName, Split] = {}
    problems: list[Problem] = []
    for name in splits_read(data, need):
        try:
            parts = [_load_split(path, data, limit, labels or CLASSES) for path in find_files(folder, name)]
            found[name] = joined_splits(parts)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found


def label_problems(data: Data, splits: Mapping[SplitName, Split], labels: Labels) -> list[Problem]:
    """The rules between the labels of both splits, as they are and as `data.max_samples` leaves them."""
    found = _rule_problems(data, splits, labels)
    if found:
        return found
    chosen = {
        name: replace(split, where=f"{split.where} with {limit_key(data, name)}={len(split)}")
        if len(split) < len(splits[name])
        else split
        for name, split in limited(data, splits).items()
    }
    return _rule_problems(data, chosen, labels)


def _rule_problems(data: Data, splits: Mapping[SplitName, Split], labels: Labels) -> list[Problem]:
    if "train" not in splits:
        return []
    return labels.check({"eval": splits["train"], **splits}, data.label_names or splits["train"].names)


def _load_split(path: Path, data: Data, limit: int | None, labels: Labels) -> Split:
    rows = list(islice(read_rows(path), limit))
    if not rows:
        raise DataError(Problem(str(path), "has no samples"))
    columns = find_columns(list(rows[0][1]), data, str(path), labels)
    complete = limit is None or len(rows) < limit
    return to_split(rows, columns, str(path), complete, labels, declared_names(path, columns.label))


def find_columns(header: Sequence[str], data: Data, where: str, labels: Labels | None = None) -> Columns:
    """The columns that the recipe names; where it names none, or the hub's names for MRPC, those
    of GLUE's MRPC files; else the usual names.

    Raises `DataError` with the nearest names.
    """
    if {*GLUE_MRPC[0], GLUE_MRPC[1]} <= {*header} and _may_be_mrpc(data):
        return Columns(*GLUE_MRPC)
    problems = []
    texts = tuple(data.text_columns) if data.text_columns else _usual_texts(header)
    label = data.label_column or next((name for name in (labels or CLASSES).names if name in header), None)
    if not texts:
        problems.append(_no_column(where, "data.text_columns", "text", header, named=False))
    problems += [_no_column(where, "data.text_columns", name, header) for name in texts if name not in header]
    if label is None or label not in header:
        problems.append(_no_column(where, "data.label_column", label or "label", header, named=bool(label)))
    if len(texts) > 2:
        problems.append(Problem("data.text_columns", f"names {len(texts)} columns", "one, or two for pairs"))
    if problems or label is None:
        raise DataError(problems)
    return Columns(texts, label)


def _may_be_mrpc(data: Data) -> bool:
    return data.text_columns in (None, [*TEXT_NAMES[0]]) and data.label_column in (None, "label")


def _usual_texts(header: Sequence[str]) -> tuple[str, ...]:
    pairs = [pair for pair in TEXT_NAMES if set(pair) <= set(header)]
    single = [(name,) for name in SINGLE_TEXT_NAMES if name in header]
    return next(iter([*pairs, *single]), ())


def _no_column(where: str, key: str, name: str, header: Sequence[str], named: bool = True) -> Problem:
    """`named`: the recipe names the column; otherwise `name` is what it is usually called."""
    what = f"has no column '{name}'" if named else f"has no {name} column that is recognized"
    hint = f"{nearest(name, header)} set {key}; columns: {', '.join(header)}"
    return Problem(where, what, hint.strip())


def to_split(
    rows: Sequence[Row],
    columns: Columns,
    where: str,
    complete: bool = True,
    kind: Labels | None = None,
    names: Sequence[str] | None = None,
) -> Split:
    """Texts and labels of the rows; `names` are those that the file declares for its numbers.

    Raises `DataError` that names the first lines that are wrong.
    """
    problems: list[Problem] = []
    labels: list[Any] = []
    read = (kind or CLASSES).read
    for line, row in rows:
        try:
            labels.append(_named(read(row.get(columns.label)), names))
        except ValueError as error:
            problems.append(Problem(f"{where}:{line}", f"column '{columns.label}': {error}"))
        for name in columns.texts:
            if not isinstance(row.get(name), str):
                problems.append(Problem(f"{where}:{line}", f"column '{name}': {row.get(name)!r} is not text"))
    if problems:
        raise DataError(shortened(problems, where))
    texts = tuple([str(row[name]) for _, row in rows] for name in columns.texts)
    return Split(texts, labels, where, complete, tuple(names) if names else None)


def _named(label: Any, names: Sequence[str] | None) -> Any:
    """The label by its declared name. Raises `ValueError` for a number that has none."""
    if isinstance(label, list):
        return in_order({_named(one, names) for one in label})
    if names is None or not isinstance(label, int):
        return label
    if label >= len(names):
        raise ValueError(f"{label} is beyond the {counted(len(names), 'class')} that the file declares")
    return names[label]
