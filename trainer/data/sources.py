"""The raw splits of the recipe's data, checked: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import Any

from galley.datacheck import Split, check_labels, describe, find_columns, load_splits, to_split
from galley.datafiles import DataError, SplitName
from galley.errors import Problem, valid_values
from galley.schema import Data
from trainer.assets import DATA, PREFIX, is_embedded
from trainer.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")

# Sets without a validation split (imdb) are measured on their test split.
HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


@dataclass(frozen=True)
class Splits:
    """What is trained and measured on.

    Attributes:
        num_labels: classes of the whole training data, whatever `data.max_samples` leaves of it.
    """

    train: Split
    eval: Split
    num_labels: int


def read_splits(data: Data) -> Splits:
    """Both splits, at most `data.max_samples` each. Raises `ConfigError` that names what is wrong."""
    if data.path is not None:
        found = load_splits(data)
    elif is_embedded(data.name):
        found = _embedded(data)
    else:
        found = _hub(data)
    num_labels = max(found["train"].labels) + 1
    chosen = {name: _at_most(split, data.max_samples) for name, split in found.items()}
    for split in chosen.values():
        log.info("%s", describe(split))
    return Splits(chosen["train"], chosen["eval"], num_labels)


def _at_most(split: Split, count: int | None) -> Split:
    """`count` samples spread evenly over the split, which may be sorted by class."""
    size = len(split.labels)
    if count is None or count >= size:
        return split
    kept = [position * size // count for position in range(count)]
    texts = tuple([column[index] for index in kept] for column in split.texts)
    return Split(texts, [split.labels[index] for index in kept], split.where)


def _embedded(data: Data) -> dict[SplitName, Split]:
    from trainer.assets import pydoc_pairs

    name = data.name.removeprefix(PREFIX)
    if name not in DATA:
        raise DataError(Problem(f"data.name={data.name}", "is not embedded", valid_values(name, DATA)))
    found: dict[SplitName, Split] = {}
    for split in HUB_SPLITS:
        first, second, labels = zip(*pydoc_pairs.pairs(split), strict=True)
        found[split] = Split((list(first), list(second)), list(labels), f"{data.name} ({split})")
    return found


def _hub(data: Data) -> dict[SplitName, Split]:
    use_cache_if_unreachable()
    import datasets

    where = f"data.name={data.name}"
    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset)
    found: dict[SplitName, Split] = {}
    for name, candidates in HUB_SPLITS.items():
        stored = next((candidate for candidate in candidates if candidate in loaded), None)
        if stored is None:
            raise DataError(Problem(where, f"has no {name} split", f"it has {', '.join(loaded)}"))
        source = f"{where} ({stored})"
        columns = find_columns(loaded[stored].column_names, data, source)
        found[name] = to_split(list(zip(itertools.count(1), loaded[stored], strict=False)), columns, source)
    problems = check_labels(found)
    if problems:
        raise DataError(problems)
    return found
