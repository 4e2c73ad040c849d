"""Read and check the raw splits of the recipe's data: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from galley.data.check import find_columns, label_problems, load_splits, to_split
from galley.data.files import SplitName
from galley.data.labels import CLASSES, Labels, class_order, numbered
from galley.data.roles import Need, splits_read
from galley.data.sampling import gathered, limited, sources_of
from galley.data.splits import Split, describe, joined_splits
from galley.errors import DataError
from galley.schema import Data
from trainer.assets import data_rows, is_embedded
from trainer.data.raw import hub_splits

log = logging.getLogger("galley")


@dataclass(frozen=True)
class Splits:
    """The data that are trained on and evaluated.

    Attributes:
        eval: None if nothing is evaluated and no such split is read.
        num_labels: classes of the whole training data, whatever `data.max_samples` leaves of it.
        names: of all classes in the order of their numbers; None if they are numbers without names.
    """

    train: Split
    eval: Split | None
    num_labels: int
    names: list[str] | None = None


def read_splits(
    data: Data,
    labels: Labels = CLASSES,
    need: Need = "both",
    known: Callable[[], Sequence[str]] = list,
) -> Splits:
    """Return the splits, at most `sample_limit` rows each, with classes as numbers.

    `known` returns the classes of the stored model (`class_order`); it is called if labels are text.
    Raises `ConfigError` that names what is wrong.
    """
    sources = [_read(source, labels, need) for source in sources_of(data)]
    whole = gathered(data, sources, joined_splits)
    problems = label_problems(data, whole, labels)
    if problems:
        raise DataError(problems)

    chosen = limited(data, whole)
    for split in chosen.values():
        log.info("%s", describe(split))

    order = class_order(whole, data.label_names, known)
    if order is None:
        return Splits(chosen["train"], chosen.get("eval"), count_labels(whole["train"].labels))
    log.info("classes: %s", ", ".join(f"{number} {name}" for number, name in enumerate(order)))
    train, held_out = (
        split and replace(split, labels=numbered(split.labels, order))
        for split in (chosen["train"], chosen.get("eval"))
    )
    assert train is not None  # noqa: S101
    return Splits(train, held_out, len(order), order)


def _read(data: Data, labels: Labels, need: Need) -> dict[SplitName, Split]:
    """Return the splits of one source, whole."""
    if data.path is not None:
        return load_splits(data, labels=labels, need=need)
    return _embedded(data, labels, need) if is_embedded(data.name) else _hub(data, labels, need)


def count_labels(labels: Sequence[Any]) -> int:
    """Return the number of outputs of a model of these labels: one for numbers, else one per class."""
    if isinstance(labels[0], float):
        return 1
    return 1 + max(max(label, default=0) if isinstance(label, list) else label for label in labels)


def _embedded(data: Data, labels: Labels, need: Need) -> dict[SplitName, Split]:
    splits: dict[SplitName, Split] = {}
    for split in splits_read(data, need):
        rows, where = data_rows(data.name, split), f"{data.name} ({split})"
        splits[split] = to_split(
            list(enumerate(rows, 1)), find_columns(list(rows[0]), data, where, labels), where, kind=labels
        )
    return splits


def _hub(data: Data, labels: Labels, need: Need) -> dict[SplitName, Split]:
    where = f"data.name={data.name}"
    splits: dict[SplitName, Split] = {}
    for name, (stored, rows) in hub_splits(data, need=need).items():
        source = f"{where} ({stored})"
        columns = find_columns(rows.column_names, data, source, labels)
        feature = rows.features[columns.label]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        splits[name] = to_split(list(enumerate(rows, 1)), columns, source, kind=labels, names=names)
    return splits
