"""Two finished runs side by side: whether they may be compared, and what one is to the other as ratios."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from galley.errors import Problem
from galley.spec import DataRecord, RunResult, RunSpec
from galley.tasks import known_metrics

# Keys that change where, or how fast, the same thing is computed.
_SAME_MODEL = frozenset({"attn_implementation", "num_parameters", "shape", "trust_remote_code"})
_SAME_DATA = frozenset({"workers", "loader_workers", "cache_dir", "streaming", "shuffle_buffer"})
_TIMES = ("train_s", "wall_s")
_SPEEDS = ("samples_per_s", "tokens_per_s")


@dataclass(frozen=True)
class Finished:
    """A run that has succeeded.

    Attributes:
        name: of its folder.
        data: what it has read; null for runs of which that is not known.
    """

    name: str
    spec: RunSpec
    result: RunResult
    data: DataRecord | None


@dataclass(frozen=True)
class Row:
    """One figure of both runs.

    Attributes:
        ratio: the second to the first; null if the first is zero.
        better: whether the second is better; null if they are equal, or no direction is known.
    """

    name: str
    first: float
    second: float
    ratio: float | None
    better: bool | None


def incomparable(first: Finished, second: Finished) -> list[Problem]:
    """Why a ratio of the two would mean nothing: other models, data, tasks or global batches."""
    problems = [
        *_different("model", first, second, _SAME_MODEL),
        *_different("task", first, second, frozenset()),
        *_data(first, second),
    ]
    sizes = [run.spec.layout.global_size for run in (first, second)]
    if sizes[0] != sizes[1]:
        problems.append(_problem("batch.global_size", sizes, first, second))
    return problems


def compared(first: Finished, second: Finished) -> list[Row]:
    """Speed, memory and metrics. Times only where both made the same number of steps in one attempt."""
    names = [*_SPEEDS]
    same_work = first.result.steps == second.result.steps
    if same_work and not (first.result.resumed_from or second.result.resumed_from):
        names += _TIMES
    names += ["peak_memory_gib", *(name for name in first.result.metrics if name in second.result.metrics)]
    rows = (_row(name, first, second) for name in names)
    return [row for row in rows if row is not None]


def efficiency(first: Finished, second: Finished) -> float | None:
    """The ratio of the speeds by the ratio of the ranks; null if the numbers of ranks are equal."""
    ranks = [run.result.world_size for run in (first, second)]
    speeds = [run.result.samples_per_s for run in (first, second)]
    if ranks[0] == ranks[1] or not all(ranks) or not speeds[0] or speeds[1] is None:
        return None
    return (speeds[1] / speeds[0]) / (ranks[1] / ranks[0])


def _row(name: str, first: Finished, second: Finished) -> Row | None:
    one, other = (run.result.metrics.get(name, getattr(run.result, name, None)) for run in (first, second))
    if one is None or other is None:
        return None
    known = known_metrics(first.spec.recipe).get(name)
    better = None
    if known is not None and one != other:
        better = (other > one) is (known.direction == "maximize")
    return Row(name, one, other, other / one if one else None, better)


def _different(part: str, first: Finished, second: Finished, ignored: frozenset[str]) -> Iterator[Problem]:
    one, other = (asdict(getattr(run.spec.recipe, part)) for run in (first, second))
    for key in one:
        if key not in ignored and one[key] != other[key]:
            yield _problem(f"{part}.{key}", [one[key], other[key]], first, second)


def _data(first: Finished, second: Finished) -> Iterator[Problem]:
    """By the samples that were read, wherever they lay; by the keys where that is not known."""
    if first.data is None or second.data is None:
        yield from _different("data", first, second, _SAME_DATA)
        return
    if first.data.fingerprint == second.data.fingerprint:
        return
    problems = list(_different("data", first, second, _SAME_DATA))
    prints = [run.data.fingerprint[:12] for run in (first, second) if run.data is not None]
    yield from problems or [_problem("data", prints, first, second)]


def _problem(key: str, values: list[Any], first: Finished, second: Finished) -> Problem:
    what = f"is {values[0]} in {first.name} and {values[1]} in {second.name}"
    return Problem(key, what, "only runs of one model, task, data and global batch give a ratio; see `diff`")
