"""The raw rows of the recipe's data by role, checked: from `data.path`, an embedded set, or the hub,
or from several of them in a mixture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from galley.datafiles import DataError, SplitName
from galley.errors import Problem
from galley.schema import Data, Source
from galley.tables import Role, Table, joined, load_tables, splits_read, to_table
from trainer.assets import data_rows, is_embedded
from trainer.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")

# Sets without a validation split (imdb) are measured on their test split.
HUB_SPLITS: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "eval": ("validation", "dev", "test")}


class Rows(Protocol):
    """One split as a task reads it: `Table`, `Split`, `QuestionSet`."""

    @property
    def where(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int], where: str | None = None) -> Self: ...


R = TypeVar("R", bound=Rows)
Join = Callable[[Sequence[R]], R]


def read_tables(data: Data, roles: Sequence[Role], only_eval: bool = False) -> dict[SplitName, Table]:
    """The splits that are read (`splits_read`), at most `sample_limit` rows each.

    Raises `ConfigError` that names what is wrong.
    """
    found = limited(data, gathered(data, lambda source: _one_source(source, roles, only_eval), joined))
    for table in found.values():
        log.info("%s: %d samples", table.where, len(table))
    return found


def gathered(data: Data, read: Callable[[Data], dict[SplitName, R]], join: Join[R]) -> dict[SplitName, R]:
    """What `read` finds in the one source, or in those of the mixture; with what is held out."""
    found = _mixed(data, read, join) if data.mix else read(data)
    return _held_out(found["train"], data.hold_out) if data.hold_out and "train" in found else found


def limited(data: Data, splits: Mapping[SplitName, R]) -> dict[SplitName, R]:
    """At most `sample_limit` rows of each split."""
    found: dict[SplitName, R] = {}
    for name, rows in splits.items():
        kept = at_most(len(rows), sample_limit(data, name))
        found[name] = rows if kept is None else rows.take(kept)
    return found


def of_source(data: Data, source: Source) -> Data:
    """The data of one source of the mixture."""
    return replace(data, name=source.name, subset=source.subset, path=source.path, mix=[])


def sample_limit(data: Data, split: SplitName) -> int | None:
    """How many samples of a split are taken; None for all."""
    if split == "eval" and data.max_eval_samples is not None:
        return data.max_eval_samples
    return data.max_samples


def at_most(size: int, count: int | None) -> list[int] | None:
    """`count` positions spread evenly over a split, which may be sorted; None takes all."""
    if count is None or count >= size:
        return None
    return [position * size // count for position in range(count)]


def mixture_sizes(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows taken of each source: in proportion to the weights, as many as the scarcest one allows."""
    scale = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(1, round(scale * weight)) for weight in weights]


def _mixed(data: Data, read: Callable[[Data], dict[SplitName, R]], join: Join[R]) -> dict[SplitName, R]:
    """Training by weight; evaluation holds the evaluation splits of all sources, whole."""
    sources = [read(of_source(data, source)) for source in data.mix]
    found: dict[SplitName, R] = {}
    if "train" in sources[0]:
        weights = [source.weight for source in data.mix]
        found["train"] = join(_by_weight([source["train"] for source in sources], weights))
    if "eval" in sources[0]:
        found["eval"] = join([source["eval"] for source in sources])
    return found


def _by_weight(parts: Sequence[R], weights: Sequence[float]) -> list[R]:
    taken = []
    for rows, size in zip(parts, mixture_sizes([len(rows) for rows in parts], weights), strict=True):
        log.info("mixture: %d of %d samples of %s", size, len(rows), rows.where)
        taken.append(rows.take(at_most(len(rows), size) or range(len(rows))))
    return taken


def _held_out(rows: R, count: int) -> dict[SplitName, R]:
    kept = at_most(len(rows), count)
    if kept is None:
        what = f"{rows.where} has {len(rows)} samples: none would be left for training"
        raise DataError(Problem(f"data.hold_out={count}", what))
    chosen = set(kept)
    rest = [index for index in range(len(rows)) if index not in chosen]
    return {"train": rows.take(rest), "eval": rows.take(kept, f"{rows.where} (held out)")}


def _one_source(data: Data, roles: Sequence[Role], only_eval: bool) -> dict[SplitName, Table]:
    if data.path is not None:
        return load_tables(data, roles, only_eval=only_eval)
    if not is_embedded(data.name):
        return _hub(data, roles, only_eval)
    found: dict[SplitName, Table] = {}
    for split in splits_read(data, only_eval):
        rows = list(enumerate(data_rows(data.name, split), 1))
        found[split] = to_table(rows, roles, data, f"{data.name} ({split})")
    return found


def _hub(data: Data, roles: Sequence[Role], only_eval: bool) -> dict[SplitName, Table]:
    found: dict[SplitName, Table] = {}
    for name, (stored, rows) in hub_splits(data, data.streaming, only_eval).items():
        where = f"data.name={data.name} ({stored})"
        found[name] = to_table(list(enumerate(rows, 1)), roles, data, where)
    return found


def hub_splits(
    data: Data, streaming: bool = False, only_eval: bool = False
) -> dict[SplitName, tuple[str, Any]]:
    """The splits that are read, as the `datasets` library gives them, each with its name there.

    Raises `ConfigError` where the set cannot be loaded or lacks a split.
    """
    use_cache_if_unreachable()
    import datasets

    where = f"data.name={data.name}"
    with hub_errors("data.name", data.name):
        loaded: Any = datasets.load_dataset(data.name, data.subset, streaming=streaming)
    found: dict[SplitName, tuple[str, Any]] = {}
    for name in splits_read(data, only_eval):
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
