"""The raw rows of the recipe's data by role, checked: from `data.path`, an embedded set, or the hub,
or from several of them in a mixture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from galley.datafiles import DataError, SplitName
from galley.errors import Problem
from galley.schema import Data, Source
from galley.tables import Role, Table, joined, load_tables, splits_read, to_table
from trainer.assets import data_rows, is_embedded
from trainer.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")

# Sets without a validation split (imdb) are measured on their test split.
HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


def read_tables(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    """The splits that are read, at most `data.max_samples` rows each.

    Raises `ConfigError` that names what is wrong.
    """
    found = _mixed(data, roles) if data.mix else _one_source(data, roles)
    if data.hold_out:
        found = _held_out(found["train"], data.hold_out)
    for name, table in found.items():
        kept = at_most(len(table), data.max_samples)
        found[name] = table if kept is None else table.take(kept)
        log.info("%s: %d samples", table.where, len(found[name]))
    return found


def of_source(data: Data, source: Source) -> Data:
    """The data of one source of the mixture."""
    return replace(data, name=source.name, subset=source.subset, path=source.path, mix=[])


def at_most(size: int, count: int | None) -> list[int] | None:
    """`count` positions spread evenly over a split, which may be sorted; None takes all."""
    if count is None or count >= size:
        return None
    return [position * size // count for position in range(count)]


def mixture_sizes(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows taken of each source: in proportion to the weights, as many as the scarcest one allows."""
    scale = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(1, round(scale * weight)) for weight in weights]


def _mixed(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    """Training by weight; evaluation holds the evaluation splits of all sources, whole."""
    sources = [_one_source(of_source(data, source), roles) for source in data.mix]
    found: dict[SplitName, Table] = {}
    if "train" in sources[0]:
        found["train"] = _by_weight([source["train"] for source in sources], [s.weight for s in data.mix])
    if "eval" in sources[0]:
        found["eval"] = joined([source["eval"] for source in sources])
    return found


def _by_weight(tables: Sequence[Table], weights: Sequence[float]) -> Table:
    taken = []
    for table, size in zip(tables, mixture_sizes([len(t) for t in tables], weights), strict=True):
        log.info("mixture: %d of %d samples of %s", size, len(table), table.where)
        taken.append(table.take(at_most(len(table), size) or range(len(table))))
    return joined(taken)


def _held_out(table: Table, count: int) -> dict[SplitName, Table]:
    kept = at_most(len(table), count)
    if kept is None:
        what = f"{table.where} has {len(table)} samples: none would be left for training"
        raise DataError(Problem(f"data.hold_out={count}", what))
    chosen = set(kept)
    rest = [index for index in range(len(table)) if index not in chosen]
    return {"train": table.take(rest), "eval": replace(table.take(kept), where=f"{table.where} (held out)")}


def _one_source(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    if data.path is not None:
        return load_tables(data, roles)
    if not is_embedded(data.name):
        return _hub(data, roles)
    found: dict[SplitName, Table] = {}
    for split in splits_read(data):
        rows = list(enumerate(data_rows(data.name, split), 1))
        found[split] = to_table(rows, roles, data, f"{data.name} ({split})")
    return found


def _hub(data: Data, roles: Sequence[Role]) -> dict[SplitName, Table]:
    found: dict[SplitName, Table] = {}
    for name, (stored, rows) in hub_splits(data, data.streaming).items():
        where = f"data.name={data.name} ({stored})"
        found[name] = to_table(list(enumerate(rows, 1)), roles, data, where)
    return found


def hub_splits(data: Data, streaming: bool = False) -> dict[SplitName, tuple[str, Any]]:
    """The splits that are read, as the `datasets` library gives them, each with its name there.

    Raises `ConfigError` where the set cannot be loaded or lacks a split.
    """
    use_cache_if_unreachable()
    import datasets

    where = f"data.name={data.name}"
    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset, streaming=streaming)
    found: dict[SplitName, tuple[str, Any]] = {}
    for name in splits_read(data):
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
        found[name] = (stored, loaded[stored])
    return found
