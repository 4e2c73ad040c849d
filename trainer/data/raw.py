"""Read and check the raw rows of the recipe's data by role.

They come from `data.path`, an embedded set, or the hub, or from several of them in a mixture.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from galley.data.files import SplitName
from galley.data.roles import Need, Role, Table, joined, load_tables, splits_read, to_table
from galley.data.sampling import gathered, limited, sources_of
from galley.errors import DataError, Problem
from galley.schema import Data
from trainer.assets import data_rows, is_embedded
from trainer.models.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")

SOURCE = "source of the mixture"
# Sets without a validation split (imdb) are measured on their test split.
HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


def read_tables(data: Data, roles: Sequence[Role], need: Need = "both") -> dict[SplitName, Table]:
    """Return the splits that are read (`splits_read`), at most `sample_limit` rows each.

    Raises `ConfigError` that names what is wrong.
    """
    sources = [one_source(source, roles, need) for source in sources_of(data)]
    if data.one_source_batches:
        sources = [_numbered(tables, number) for number, tables in enumerate(sources)]
    return taken(data, gathered(data, sources, joined))


def _numbered(tables: Mapping[SplitName, Table], number: int) -> dict[SplitName, Table]:
    """Return the tables with a column that holds the number of the source of each row."""
    return {
        split: replace(table, columns={**table.columns, SOURCE: [number] * len(table)})
        for split, table in tables.items()
    }


def taken(data: Data, tables: Mapping[SplitName, Table]) -> dict[SplitName, Table]:
    """Return at most `sample_limit` rows of each split, and log their number."""
    chosen = limited(data, tables)
    for table in chosen.values():
        log.info("%s: %d samples", table.where, len(table))
    return chosen


def one_source(data: Data, roles: Sequence[Role], need: Need) -> dict[SplitName, Table]:
    """Return the splits of one source, whole."""
    if data.path is not None:
        return load_tables(data, roles, need=need)
    if not is_embedded(data.name):
        return _hub(data, roles, need)
    tables: dict[SplitName, Table] = {}
    for split in splits_read(data, need):
        rows = list(enumerate(data_rows(data.name, split), 1))
        tables[split] = to_table(rows, roles, data, f"{data.name} ({split})")
    return tables


def _hub(data: Data, roles: Sequence[Role], need: Need) -> dict[SplitName, Table]:
    """Return the splits of a set on the hub, whole."""
    tables: dict[SplitName, Table] = {}
    for name, (stored, rows) in hub_splits(data, data.streaming, need).items():
        where = f"data.name={data.name} ({stored})"
        tables[name] = to_table(list(enumerate(rows, 1)), roles, data, where)
    return tables


def hub_splits(data: Data, streaming: bool = False, need: Need = "both") -> dict[SplitName, tuple[str, Any]]:
    """Return the splits that are read, as the `datasets` library gives them, each with its name there.

    Raises `ConfigError` if the set cannot be loaded or lacks a split.
    """
    use_cache_if_unreachable()
    import datasets

    where = f"data.name={data.name}"
    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset, streaming=streaming)
    splits: dict[SplitName, tuple[str, Any]] = {}
    for name in splits_read(data, need):
        named = data.train_split if name == "train" else data.eval_split
        candidates = (named,) if named else HUB_SPLITS[name]
        stored = next((candidate for candidate in candidates if candidate in loaded), None)
        if stored is None:
            raise DataError(
                Problem(
                    where,
                    f"has no {named or name} split",
                    f"it has {', '.join(loaded)}: set data.{name}_split",
                )
            )
        splits[name] = (stored, loaded[stored])
    return splits
