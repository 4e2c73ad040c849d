"""The raw rows of the recipe's data by role, checked: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from galley.datafiles import DataError, SplitName
from galley.errors import Problem
from galley.schema import Data
from galley.tables import Role, Table, load_tables, to_table
from trainer.assets import data_rows, is_embedded
from trainer.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")

# Sets without a validation split (imdb) are measured on their test split.
HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


def read_tables(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    """Both splits, at most `data.max_samples` rows each. Raises `ConfigError` that names what is wrong."""
    if data.path is not None:
        found = load_tables(data, roles)
    elif is_embedded(data.name):
        found = {
            split: to_table(
                list(enumerate(data_rows(data.name, split), 1)), roles, data, f"{data.name} ({split})"
            )
            for split in HUB_SPLITS
        }
    else:
        found = _hub(data, roles)
    for name, table in found.items():
        kept = at_most(len(table), data.max_samples)
        found[name] = table if kept is None else table.take(kept)
        log.info("%s: %d samples", table.where, len(found[name]))
    return found


def at_most(size: int, count: int | None) -> list[int] | None:
    """`count` positions spread evenly over a split, which may be sorted; None takes all."""
    if count is None or count >= size:
        return None
    return [position * size // count for position in range(count)]


def _hub(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    found: dict[SplitName, Table] = {}
    for name, (stored, rows) in hub_splits(data).items():
        where = f"data.name={data.name} ({stored})"
        found[name] = to_table(list(enumerate(rows, 1)), roles, data, where)
    return found


def hub_splits(data: Data) -> dict[SplitName, tuple[str, Any]]:
    """Both splits as the `datasets` library gives them, each with its own name.

    Raises `ConfigError` where the set cannot be loaded or lacks a split.
    """
    use_cache_if_unreachable()
    import datasets

    where = f"data.name={data.name}"
    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset)
    found: dict[SplitName, tuple[str, Any]] = {}
    for name, candidates in HUB_SPLITS.items():
        stored = next((candidate for candidate in candidates if candidate in loaded), None)
        if stored is None:
            raise DataError(Problem(where, f"has no {name} split", f"it has {', '.join(loaded)}"))
        found[name] = (stored, loaded[stored])
    return found
