"""The raw splits of the recipe's data, checked; from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import itertools
from typing import Any

from galley.datacheck import Split, check_labels, find_columns, load_splits, to_split
from galley.datafiles import DataError, SplitName
from galley.errors import Problem, valid_values
from galley.schema import Data
from trainer.assets import DATA, PREFIX, is_embedded
from trainer.hub import hub_errors, use_cache_if_unreachable

HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


def read_splits(data: Data) -> dict[SplitName, Split]:
    """Both splits, at most `data.max_samples` each. Raises `ConfigError` that names what is wrong."""
    if data.path is not None:
        splits = load_splits(data)
    elif is_embedded(data.name):
        splits = _embedded(data)
    else:
        splits = _hub(data)
    if data.max_samples is None:
        return splits
    return {name: _first(split, data.max_samples) for name, split in splits.items()}


def _first(split: Split, count: int) -> Split:
    return Split(tuple(column[:count] for column in split.texts), split.labels[:count], split.where)


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

    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset)
    found: dict[SplitName, Split] = {}
    for name, candidates in HUB_SPLITS.items():
        stored = next((candidate for candidate in candidates if candidate in loaded), None)
        where = f"data.name={data.name}"
        if stored is None:
            raise DataError(Problem(where, f"has no {name} split", f"it has {', '.join(loaded)}"))
        columns = find_columns(loaded[stored].column_names, data, f"{where} ({stored})")
        found[name] = to_split(list(zip(itertools.count(1), loaded[stored])), columns, f"{where} ({stored})")
    problems = check_labels(found)
    if problems:
        raise DataError(problems)
    return found
