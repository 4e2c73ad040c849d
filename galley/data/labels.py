"""How tasks read their label column, what holds between labels, and which number a class has."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galley.counting import counted
from galley.data.files import SplitName, listing
from galley.data.splits import Split, in_order
from galley.errors import Problem, nearest

Names = Sequence[str] | None
"""All classes in their order, where the recipe or the file names them."""
Check = Callable[[Mapping[SplitName, Split], Names], list[Problem]]


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
    check: Check


def read_class(value: Any) -> int | str:
    """A class: a whole number from 0, also as text or as a float; else the text of its name.

    Booleans are the names `false` and `true`, as text is that spells them. Raises `ValueError`.
    """
    if isinstance(value, bool):
        return str(value).lower()
    number = _as_number(value)
    if number is not None and number.is_integer() and number >= 0:
        return int(value) if isinstance(value, int) else int(number)
    if number is not None or not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a class number (0, 1, …){_task_for(value, number)}")
    text = value.strip()
    return text.lower() if text.lower() in ("true", "false") else text


def _as_number(value: Any) -> float | None:
    """The value as a number, which may be infinite or not a number; null for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_000 as a number, nobody else does
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _task_for(value: Any, number: float | None) -> str:
    """The task whose labels look like this."""
    if isinstance(value, list):
        return "; task=multi_label_classification learns lists of them"
    fraction = number is not None and math.isfinite(number) and not number.is_integer()
    return "; task=sequence_regression learns numbers" if fraction else ""


def read_number(value: Any) -> float:
    """A finite number, also as text. Raises `ValueError` on anything else."""
    number = _as_number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def read_class_set(value: Any) -> list[int | str]:
    """A list of classes, in csv and tsv as json; it may be empty. Raises `ValueError`."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, list):
        raise ValueError(f"{value!r} is not a list of class numbers ([0, 2])")
    return in_order({read_class(entry) for entry in found})


def check_classes(splits: Mapping[SplitName, Split], names: Names, least: int = 2) -> list[Problem]:
    """The rules between classes, where all of training was read.

    There are `least` at least; without names they are 0…n-1, or all text; with names each has one;
    evaluation has none that training lacks.
    """
    train, held_out = splits["train"], splits["eval"]
    if not train.complete:
        return []
    known = _occurring(train)
    if len(known) < least:
        return [_too_few(train, known)]
    problems = _unnamed(splits, names) if names else _unnumbered(train, known)
    numbers = {value: number_of(value, names) if names else value for value in known | _occurring(held_out)}
    learned = {numbers[value] for value in known}
    unseen = in_order({value for value in _occurring(held_out) if numbers[value] not in learned})
    if unseen and not problems:
        what = f"has labels that {train.where} does not have: {listing(unseen)}"
        problems.append(Problem(held_out.where, what, f"labels of training: {listing(in_order(known))}"))
    return problems


def _check_sets(splits: Mapping[SplitName, Split], names: Names) -> list[Problem]:
    return check_classes(splits, names, least=1)


def _occurring(split: Split) -> set[int | str]:
    found: set[Any] = {name for row in split.classes or () for name in row}
    return found


def _too_few(train: Split, known: set[int | str]) -> Problem:
    if not known:
        return Problem(train.where, "no sample has a class", "training needs one class at least")
    what = f"all {counted(len(train.labels), 'sample')} have label {next(iter(known))}"
    return Problem(train.where, what, "training needs two classes at least")


def _unnumbered(train: Split, known: set[int | str]) -> list[Problem]:
    numbers = [name for name in in_order(known) if isinstance(name, int)]
    texts = [name for name in in_order(known) if isinstance(name, str)]
    if numbers and texts:
        what = f"has labels of two kinds: numbers ({listing(numbers)}) and text ({listing(texts)})"
        return [Problem(train.where, what, "write all of them as numbers, or all as text")]
    if texts or numbers[-1] == len(numbers) - 1:
        return []
    lacking = next(number for number in range(numbers[-1]) if number not in known)
    what = f"has labels up to {numbers[-1]}, but none is {lacking}"
    return [Problem(train.where, what, f"number the {len(numbers)} classes from 0 without gaps")]


def _unnamed(splits: Mapping[SplitName, Split], names: Sequence[str]) -> list[Problem]:
    if len(set(names)) < len(names):
        return [Problem("data.label_names", f"has a name twice: {listing(names)}", "one name a class")]
    for split in splits.values():
        strange = in_order({value for value in _occurring(split) if number_of(value, names) is None})
        if strange:
            what = f"has labels that data.label_names has not: {listing(strange)}"
            hint = f"{nearest(str(strange[0]), names)} valid: {listing(names)}"
            return [Problem(split.where, what, hint.strip())]
    return []


def number_of(value: int | str, names: Sequence[str]) -> int | None:
    """Its number: the place of its name; of a number the number itself, unless names are numbers, too."""
    if str(value) in names:
        return list(names).index(str(value))
    plain = isinstance(value, int) and value < len(names) and not any(name.isdigit() for name in names)
    return value if plain and isinstance(value, int) else None


def class_order(
    splits: Mapping[SplitName, Split], names: Names, known: Callable[[], Sequence[str]] = list
) -> list[str] | None:
    """All classes in their order; null where they are numbers without names.

    As the recipe names them; else as the stored model does (`known`), if it has all of them in whatever
    capitals; else as the file declares them; else sorted as text.
    """
    if names:
        return list(names)
    train = splits["train"]
    own = list(train.names or in_order({name for name in _occurring(train) if isinstance(name, str)}))
    if not own:
        return None
    spelled, stored = {name.casefold(): name for name in own}, known()
    if len(spelled) == len(own) and spelled.keys() <= {name.casefold() for name in stored}:
        return [spelled.get(name.casefold(), name) for name in stored]
    return own


def numbered(labels: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Labels as numbers. Every one has a name: `check_classes` found nothing."""
    places = {label: number_of(label, names) for row in labels for label in _row(row)}
    return [sorted(places[x] for x in row) if isinstance(row, list) else places[row] for row in labels]


def _row(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]


CLASSES = Labels(("label", "labels"), read_class, check_classes)
NUMBERS = Labels(("label", "labels", "score"), read_number, lambda splits, names: [])
CLASS_SETS = Labels(("labels", "label"), read_class_set, _check_sets)
