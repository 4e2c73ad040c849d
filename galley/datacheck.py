"""Data checked without torch: the command refuses bad files before anything is started, with the
functions by which the worker loads the same data."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from galley.datafiles import Row, SplitName, count, find_files, listing, read_rows, shortened
from galley.errors import DataError, Problem, nearest
from galley.localdata import ROWS_BEFORE_LAUNCH, local_problems
from galley.sampling import Classes, limit_key, limited
from galley.schema import Data
from galley.tables import Need, data_folder, splits_read

# Header of GLUE's MRPC files, which name neither text nor label as anybody else does.
GLUE_MRPC = (("#1 String", "#2 String"), "Quality")
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
SINGLE_TEXT_NAMES = ("sentence", "text")


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
        complete: whether all rows were read, not only the first.
    """

    texts: tuple[list[str], ...]
    labels: list[Any]
    where: str
    complete: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> Classes:
        """One class a row, several, or none where labels are numbers."""
        if self.labels and isinstance(self.labels[0], float):
            return None
        return [tuple(label) if isinstance(label, list) else (label,) for label in self.labels]

    def take(self, indices: Sequence[int], where: str | None = None) -> Split:
        """The rows at `indices`, in that order."""
        texts = tuple([column[index] for index in indices] for column in self.texts)
        return Split(texts, [self.labels[index] for index in indices], where or self.where, self.complete)


@dataclass(frozen=True)
class Labels:
    """How a task reads its label column.

    Attributes:
        names: usual names of the column, the likeliest first.
        read: a value as the file has it -> the label; raises `ValueError` that says what is wrong.
        check: the rules between the labels of both splits.
    """

    names: tuple[str, ...]
    read: Callable[[Any], Any]
    check: Callable[[Mapping[SplitName, Split]], list[Problem]]


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
    found = _rule_problems(splits, labels)
    if found:
        return found
    chosen = {
        name: replace(split, where=f"{split.where} with {limit_key(data, name)}={len(split)}")
        if len(split) < len(splits[name])
        else split
        for name, split in limited(data, splits).items()
    }
    return _rule_problems(chosen, labels)


def _rule_problems(splits: Mapping[SplitName, Split], labels: Labels) -> list[Problem]:
    return labels.check({"eval": splits["train"], **splits}) if "train" in splits else []


def joined_splits(parts: Sequence[Split]) -> Split:
    """The rows of all parts, one after the other. Raises `DataError` where some are pairs and some not."""
    first = parts[0]
    for part in parts[1:]:
        if len(part.texts) != len(first.texts):
            what = f"has {len(part.texts)} text columns, but {first.where} has {len(first.texts)}"
            raise DataError(Problem(part.where, what, "set data.text_columns"))
    if len(parts) == 1:
        return first
    texts = tuple(
        [text for part in parts for text in part.texts[column]] for column in range(len(first.texts))
    )
    labels = [label for part in parts for label in part.labels]
    where = f"{first.where} and {len(parts) - 1} more"
    return Split(texts, labels, where, all(part.complete for part in parts))


def _load_split(path: Path, data: Data, limit: int | None, labels: Labels) -> Split:
    rows = list(islice(read_rows(path), limit))
    if not rows:
        raise DataError(Problem(str(path), "has no samples"))
    columns = find_columns(list(rows[0][1]), data, str(path), labels)
    return to_split(rows, columns, str(path), limit is None or len(rows) < limit, labels)


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
    rows: Sequence[Row], columns: Columns, where: str, complete: bool = True, kind: Labels | None = None
) -> Split:
    """Texts and labels of the rows. Raises `DataError` that names the first lines that are wrong."""
    problems: list[Problem] = []
    labels: list[Any] = []
    read = (kind or CLASSES).read
    for line, row in rows:
        try:
            labels.append(read(row.get(columns.label)))
        except ValueError as error:
            problems.append(Problem(f"{where}:{line}", f"column '{columns.label}': {error}"))
        for name in columns.texts:
            if not isinstance(row.get(name), str):
                problems.append(Problem(f"{where}:{line}", f"column '{name}': {row.get(name)!r} is not text"))
    if problems:
        raise DataError(shortened(problems, where))
    texts = tuple([str(row[name]) for _, row in rows] for name in columns.texts)
    return Split(texts, labels, where, complete)


def _label(value: Any) -> int:
    """A class: an integer from 0, also as text. Raises `ValueError` on anything else."""
    try:
        number = int(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
            return number
    except ValueError:
        pass
    raise ValueError(f"{value!r} is not a class number (0, 1, …){_task_for(value)}")


def _task_for(value: Any) -> str:
    """The task whose labels look like this."""
    if isinstance(value, list):
        return "; task=multi_label_classification learns lists of them"
    try:
        return "" if _number(value).is_integer() else "; task=sequence_regression learns numbers"
    except ValueError:
        return ""


def _number(value: Any) -> float:
    """A finite number, also as text. Raises `ValueError` on anything else."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"{value!r} is not a number")


def _class_set(value: Any) -> list[int]:
    """A list of class numbers, in csv and tsv as json; it may be empty. Raises `ValueError`."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except json.JSONDecodeError:
            found = None
    if not isinstance(found, list):
        raise ValueError(f"{value!r} is not a list of class numbers ([0, 2])")
    return sorted({_label(entry) for entry in found})


def check_labels(splits: Mapping[SplitName, Split]) -> list[Problem]:
    """The rules between labels, where all of training was read.

    Classes are 0…n-1, two at least, each with samples; evaluation has none that training lacks.
    """
    train, held_out = splits["train"], splits["eval"]
    if not train.complete:
        return []
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        what = f"all {count(len(train.labels), 'sample')} have label {classes[0]}"
        return [Problem(train.where, what, "training needs two classes at least")]
    problems = []
    if classes[-1] != len(classes) - 1:
        lacking = next(number for number in range(classes[-1]) if number not in classes)
        what = f"has labels up to {classes[-1]}, but none is {lacking}"
        problems.append(Problem(train.where, what, f"number the {len(classes)} classes from 0 without gaps"))
    unseen = sorted(set(held_out.labels) - set(classes))
    if unseen:
        what = f"has labels that {train.where} does not have: {listing(unseen)}"
        problems.append(Problem(held_out.where, what, f"labels of training: {listing(classes)}"))
    return problems


def _check_sets(splits: Mapping[SplitName, Split]) -> list[Problem]:
    """Evaluation has no class that training lacks, and training has one at least."""
    train, held_out = splits["train"], splits["eval"]
    if not train.complete:
        return []
    classes = {label for row in train.labels for label in row}
    if not classes:
        return [Problem(train.where, "no sample has a class", "training needs one class at least")]
    unseen = sorted({label for row in held_out.labels for label in row} - classes)
    if unseen:
        what = f"has labels that {train.where} does not have: {listing(unseen)}"
        return [Problem(held_out.where, what, f"labels of training: {listing(sorted(classes))}")]
    return []


def describe(split: Split) -> str:
    """The samples of a split, by class, for the log."""
    if isinstance(split.labels[0], float):
        bounds = f"{min(split.labels):g} to {max(split.labels):g}"
        return f"{split.where}: {count(len(split.labels), 'sample')} (labels {bounds})"
    sets = [label if isinstance(label, list) else [label] for label in split.labels]
    counts = sorted(Counter(label for row in sets for label in row).items())
    classes = ", ".join(f"{number} of class {label}" for label, number in counts)
    return f"{split.where}: {count(len(split.labels), 'sample')} ({classes})"


CLASSES = Labels(("label", "labels"), _label, check_labels)
NUMBERS = Labels(("label", "labels", "score"), _number, lambda splits: [])
CLASS_SETS = Labels(("labels", "label"), _class_set, _check_sets)
