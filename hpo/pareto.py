"""Pareto arithmetic: pure functions of losses.

A point is a sequence of losses, one per objective, all to be minimized (`losses` negates what is
maximized). A point with a loss that is NaN is worse than every other. N points of M objectives
each; indices refer to the given order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hpo.study.values import Objective

Point = Sequence[float]


def losses(values: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return values by metric as losses, in the order of the objectives."""
    return tuple(values[o.metric] if o.direction == "minimize" else -values[o.metric] for o in objectives)


def dominates(a: Point, b: Point) -> bool:
    """Return whether `a` is nowhere worse than `b`, and somewhere better. Equal points do not dominate."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points that none dominates, ascending. Equal points are all in, or all out.

    A point with a NaN is never on the front.

    O(N log N + N × F) for a front of F: in lexicographic order only an earlier point dominates.
    """
    kept: list[int] = []
    numbers = [index for index, point in enumerate(points) if not any(map(math.isnan, point))]
    for index in sorted(numbers, key=lambda i: tuple(points[i])):
        if not any(dominates(points[other], points[index]) for other in kept):
            kept.append(index)
    return sorted(kept)


def ranks(points: Sequence[Point]) -> list[int]:
    """Return the non-domination rank of each point (Deb et al., NSGA-II, 2002).

    0 is the front, 1 the front without it, and so on. Points with a NaN are the last.
    """
    rank_of = [0] * len(points)
    left, rank = list(range(len(points))), 0
    while left:
        layer = {left[i] for i in front([points[i] for i in left])} or set(left)
        for index in layer:
            rank_of[index] = rank
        left, rank = [index for index in left if index not in layer], rank + 1
    return rank_of


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the volume that the points dominate, up to the reference point. Points beyond it add nothing.

    Computed by slices along the last objective (While et al., 2006): exact, for the few points of a rung.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return _slices([inside[i] for i in front(inside)], tuple(reference))


def _slices(points: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the hypervolume of points that do not dominate each other."""
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    volume = 0.0
    for index, point in enumerate(ordered):
        top = ordered[index + 1][-1] if index + 1 < len(ordered) else reference[-1]
        if top > point[-1]:
            below = [other[:-1] for other in ordered[: index + 1]]
            volume += (top - point[-1]) * _slices([below[i] for i in front(below)], reference[:-1])
    return volume


def contributions(points: Sequence[Point]) -> list[float]:
    """Return how much hypervolume each point adds to the others, in the unit cube of their common range.

    The reference is a tenth of the range beyond the worst, so that extreme points count.
    """
    scaled = normalize(points)
    reference = [1.1] * (len(scaled[0]) if scaled else 0)
    whole = hypervolume(scaled, reference)
    return [whole - hypervolume(scaled[:i] + scaled[i + 1 :], reference) for i in range(len(scaled))]


def normalize(points: Sequence[Point]) -> list[tuple[float, ...]]:
    """Scale each objective to 0 (best) … 1 (worst) over these points; 0 if they do not differ."""
    if not points:
        return []
    lows = [min(column) for column in zip(*points, strict=True)]
    spans = [max(column) - low for column, low in zip(zip(*points, strict=True), lows, strict=True)]
    return [
        tuple((x - low) / span if span > 0 else 0.0 for x, low, span in zip(point, lows, spans, strict=True))
        for point in points
    ]


def knee(points: Sequence[Point]) -> int | None:
    """Return the index of the point of a front nearest to the ideal (the best of each objective).

    Distances are in the unit cube of the front; the first of equals counts. None without points.
    """
    scaled = normalize(points)
    distances = [sum(x * x for x in point) for point in scaled]
    return distances.index(min(distances)) if distances else None
