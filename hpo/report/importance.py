"""Estimate how much of a metric's variation one parameter explains by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hpo.study.values import Trial

MAX_GROUPS = 5
MIN_TRIALS = 6


def importances(trials: Sequence[Trial], params: Sequence[str], metric: str) -> list[tuple[str, float]]:
    """Return (parameter, share) by descending share in 0 … 1; empty with fewer than `MIN_TRIALS` trials.

    The share is ε², the correlation ratio corrected for the number of groups (Kelley, 1935):
    categories are groups, numbers are cut into up to five groups of equal size. It detects any
    relation of one parameter, also one that is not monotone, but no interactions.
    """
    measured = [trial for trial in trials if metric in trial.metrics]
    if len(measured) < MIN_TRIALS:
        return []
    shares = [(name, _share(measured, name, metric)) for name in params]
    return sorted(shares, key=lambda pair: (-pair[1], pair[0]))


def _share(trials: Sequence[Trial], name: str, metric: str) -> float:
    """Return 1 - (SS_within / (n - k)) / (SS_total / (n - 1)), at least 0."""
    values = _scaled([trial.metrics[metric] for trial in trials])
    groups: dict[str, list[float]] = {}
    for group, value in zip(_groups([trial.params.get(name) for trial in trials]), values, strict=True):
        groups.setdefault(group, []).append(value)
    total = _squares(values)
    freedom = len(values) - len(groups)
    if total <= 0 or freedom <= 0 or len(groups) < 2:
        return 0.0
    within = sum(_squares(group) for group in groups.values())
    return max(0.0, 1.0 - (within / freedom) / (total / (len(values) - 1)))


def _scaled(values: Sequence[float]) -> list[float]:
    """Scale to 0 … 1, which does not change the shares.

    Squares of huge or tiny numbers would overflow or vanish.
    """
    # Divide first: the difference of two huge numbers may be infinite.
    largest = max(map(abs, values)) or 1.0
    values = [value / largest for value in values]
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values] if high > low else values


def _groups(column: Sequence[Any]) -> list[str]:
    """Return the group of each value. Points without the dimension are a group of their own."""
    numbers = [v for v in column if isinstance(v, int | float) and not isinstance(v, bool)]
    distinct = sorted(set(numbers))
    numeric = len(numbers) == len([v for v in column if v is not None]) and len(distinct) > MAX_GROUPS
    if not numeric:
        return [json.dumps(value, sort_keys=True) for value in column]
    ordered = sorted(numbers)
    count = min(MAX_GROUPS, max(2, len(ordered) // 4))
    edges = [ordered[len(ordered) * i // count] for i in range(1, count)]
    return ["none" if value is None else str(sum(value >= edge for edge in edges)) for value in column]


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squared distances from the mean."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)
