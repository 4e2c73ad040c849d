"""Which rows of a split are taken, without torch: `data.max_samples`, `data.hold_out`, mixtures.

A draw follows from the number of rows and their classes alone, not from `seed`: runs that differ in
their seed are measured on the same rows, and so do runs on any number of ranks.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar

from galley.counting import counted
from galley.data.files import SplitName
from galley.errors import DataError, Problem
from galley.schema import Data, Source

log = logging.getLogger("galley")

Classes = Sequence[tuple[Hashable, ...]] | None
"""The classes of every row, none or several each; null for rows without classes."""

SEED = 14


class Rows(Protocol):
    """One split as a task reads it: `Table`, `Split`, `QuestionSet`."""

    @property
    def where(self) -> str: ...

    @property
    def complete(self) -> bool: ...

    @property
    def classes(self) -> Classes: ...

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int], where: str | None = None) -> Self: ...


R = TypeVar("R", bound=Rows)
Join = Callable[[Sequence[R]], R]


def drawn(size: int, count: int, classes: Classes = None) -> list[int]:
    """Draw `count` of `size` rows; returns their positions in rising order.

    Every set of classes keeps its share (largest remainder). Every class has a row as long as `count`
    is enough for that.
    """
    if classes is None:
        return sorted(random.Random(SEED).sample(range(size), count))
    order, every = _shuffled(size), {name for names in classes for name in names}
    fair = chosen = _shares(order, count, classes)
    kept = list[int]()
    while missing := every - _names(chosen, classes):
        kept += _cover(order, classes, missing)
        if len(kept) > count:
            return sorted(fair)
        free = _without(order, kept)
        chosen = kept + _shares(free, count - len(kept), classes)
    return sorted(chosen)


def drawn_apart(size: int, count: int, classes: Classes = None) -> list[int]:
    """Like `drawn`, of rows that are held out: the others keep a row of every class if they can."""
    chosen = drawn(size, count, classes)
    if classes is None:
        return chosen
    order = _shuffled(size)
    others = _without(order, chosen)
    if _names(others, classes) != _names(order, classes):
        free = _without(order, _cover(order, classes, _names(order, classes)))
        if count <= len(free):
            return sorted(_shares(free, count, classes))
    return chosen


def _shuffled(size: int) -> list[int]:
    return random.Random(SEED).sample(range(size), size)


def _without(order: Sequence[int], rows: Iterable[int]) -> list[int]:
    left_out = set(rows)
    return [row for row in order if row not in left_out]


def _names(rows: Iterable[int], classes: Sequence[tuple[Hashable, ...]]) -> set[Hashable]:
    return {name for row in rows for name in classes[row]}


def _shares(order: Sequence[int], count: int, classes: Sequence[tuple[Hashable, ...]]) -> list[int]:
    """The first rows of each set of classes, in proportion to its size."""
    strata: dict[Hashable, list[int]] = {}
    for row in order:
        strata.setdefault(classes[row], []).append(row)
    quotas = {key: divmod(count * len(rows), len(order)) for key, rows in strata.items()}
    rest = count - sum(whole for whole, _ in quotas.values())
    favored = set(sorted(quotas, key=lambda key: -quotas[key][1])[:rest])
    return [row for key, rows in strata.items() for row in rows[: quotas[key][0] + (key in favored)]]


def _cover(order: Sequence[int], classes: Sequence[tuple[Hashable, ...]], wanted: set[Hashable]) -> list[int]:
    """A few rows that have every wanted class between them; the rarest class chooses first."""
    counts = Counter(name for row in order for name in classes[row] if name in wanted)
    first: dict[Hashable, int] = {}
    for row in order:
        for name in classes[row]:
            first.setdefault(name, row)
    chosen: dict[int, None] = {}
    covered: set[Hashable] = set()
    for name in sorted(counts, key=lambda name: counts[name]):
        if name not in covered:
            chosen[first[name]] = None
            covered.update(classes[first[name]])
    return list(chosen)


def sources_of(data: Data) -> list[Data]:
    """The data of every source of the mixture, or of the one that there is."""
    return [of_source(data, source) for source in data.mix] or [data]


def of_source(data: Data, source: Source) -> Data:
    """The data of one source of the mixture."""
    return replace(data, name=source.name, subset=source.subset, path=source.path, mix=[])


def gathered(data: Data, sources: Sequence[Mapping[SplitName, R]], join: Join[R]) -> dict[SplitName, R]:
    """The splits of the one source, or those of the mixture; with what is held out."""
    found = _mixed(data, sources, join) if data.mix else dict(sources[0])
    return _held_out(found["train"], data.hold_out) if data.hold_out and "train" in found else found


def limited(data: Data, splits: Mapping[SplitName, R]) -> dict[SplitName, R]:
    """At most `sample_limit` rows of each split."""
    return {name: _at_most(rows, sample_limit(data, name)) for name, rows in splits.items()}


def sample_limit(data: Data, split: SplitName) -> int | None:
    """How many samples of a split are taken; None for all."""
    return data.max_samples if limit_key(data, split) == "data.max_samples" else data.max_eval_samples


def limit_key(data: Data, split: SplitName) -> str:
    """The key that limits a split."""
    own = split == "eval" and data.max_eval_samples is not None
    return "data.max_eval_samples" if own else "data.max_samples"


def mixture_sizes(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows taken of each source: in proportion to the weights, as many as the scarcest one allows."""
    scale = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(1, round(scale * weight)) for weight in weights]


def _at_most(rows: R, count: int | None) -> R:
    if count is None or count >= len(rows):
        return rows
    return rows.take(drawn(len(rows), count, rows.classes))


def _mixed(data: Data, sources: Sequence[Mapping[SplitName, R]], join: Join[R]) -> dict[SplitName, R]:
    """Training by weight, or whole where batches are drawn by weight; evaluation holds the evaluation splits
    of all sources, whole."""
    found: dict[SplitName, R] = {}
    if "train" in sources[0]:
        weights, parts = [source.weight for source in data.mix], [source["train"] for source in sources]
        found["train"] = join(parts if data.one_source_batches else _by_weight(parts, weights))
    if "eval" in sources[0]:
        found["eval"] = join([source["eval"] for source in sources])
    return found


def _by_weight(parts: Sequence[R], weights: Sequence[float]) -> list[R]:
    taken = []
    for rows, size in zip(parts, mixture_sizes([len(rows) for rows in parts], weights), strict=True):
        log.info("mixture: %d of %s of %s", size, counted(len(rows), "sample"), rows.where)
        taken.append(_at_most(rows, size))
    return taken


def _held_out(rows: R, count: int) -> dict[SplitName, R]:
    if count >= len(rows):
        what = f"{rows.where} has {counted(len(rows), 'sample')}: none would be left for training"
        raise DataError(Problem(f"data.hold_out={count}", what, f"at most {len(rows) - 1}"))
    kept = drawn_apart(len(rows), count, rows.classes)
    chosen = set(kept)
    rest = [index for index in range(len(rows)) if index not in chosen]
    return {"train": rows.take(rest), "eval": rows.take(kept, f"{rows.where} (held out)")}
