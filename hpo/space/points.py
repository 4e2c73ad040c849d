"""Points of a search space: drawn, enumerated, and written as overrides."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from galley.config.hydra_bridge import open_loader
from hpo.study.values import Params, SpaceDim


def draw(dims: Sequence[SpaceDim], generator: random.Random) -> Params:
    """Return a random point: uniform over choices, over the range, or over its logarithm."""
    params: Params = {}
    for dim in dims:
        if dim.is_active(params):
            params[dim.key] = draw_value(dim, generator)
    return params


def draw_value(dim: SpaceDim, generator: random.Random) -> Any:
    """Return a random value of one dimension."""
    if dim.kind == "categorical":
        return generator.choice(dim.choices)
    low, high = dim.bounds
    if dim.step is not None or (dim.kind == "int" and not dim.log):
        step = dim.step or 1
        return nth_value(dim, generator.randrange(round((high - low) / step) + 1))
    if not dim.log:
        return generator.uniform(low, high)
    if dim.kind == "int":  # each integer has the logarithm of the interval around it
        drawn = math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return min(max(round(drawn), int(low)), int(high))
    drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(drawn, low), high)


def nth_value(dim: SpaceDim, index: int) -> float:
    """Return `low + index × step`, without the digits of binary fractions (0.30000000000000004)."""
    value = dim.bounds[0] + index * (dim.step or 1)
    return int(value) if dim.kind == "int" else float(f"{value:.12g}")


def size_of(dim: SpaceDim) -> int | None:
    """Return the number of values of a dimension; None if there are infinitely many."""
    if dim.kind == "categorical":
        return len(dim.choices)
    low, high = dim.bounds
    if dim.kind == "float" and dim.step is None and low != high:
        return None
    return round((high - low) / (dim.step or 1)) + 1


def values_of(dim: SpaceDim) -> Iterator[Any]:
    """Yield all values of a finite dimension in order. They are not listed: there may be billions."""
    if dim.kind == "categorical":
        yield from dim.choices
        return
    for index in range(size_of(dim) or 0):
        yield nth_value(dim, index)


def enumerate_points(dims: Sequence[SpaceDim]) -> Iterator[Params]:
    """Yield all points of a finite space, each once, the last dimension changing fastest. Keeps none."""
    yield from _extend({}, dims)


def _extend(params: Params, dims: Sequence[SpaceDim]) -> Iterator[Params]:
    if not dims:
        yield dict(params)
        return
    dim, rest = dims[0], dims[1:]
    if not dim.is_active(params) or size_of(dim) is None:
        yield from _extend(params, rest)
        return
    for value in values_of(dim):
        yield from _extend({**params, dim.key: value}, rest)


def count_points(dims: Sequence[SpaceDim], at_most: int) -> int:
    """Return the number of points of a finite space, counted no further than `at_most`."""
    if not any(dim.when for dim in dims):
        return min(at_most, math.prod(size_of(dim) or 0 for dim in dims))
    return sum(1 for _ in islice(enumerate_points(dims), at_most))


class Grid:
    """Points of a finite space by their index. They are enumerated on demand."""

    def __init__(self, dims: Sequence[SpaceDim], first: Sequence[Params] = ()) -> None:
        """Prepare the enumeration. `first`: points of the space that come before all others."""
        known = {point_text(point) for point in first}
        others = (point for point in enumerate_points(dims) if point_text(point) not in known)
        self._ahead = chain(first, others)
        self._points: list[Params] = []

    def point(self, index: int) -> Params | None:
        """Return the point; None if the space has fewer points."""
        self._points += islice(self._ahead, max(0, index + 1 - len(self._points)))
        return self._points[index] if index < len(self._points) else None


def same_point(a: Params, b: Params) -> bool:
    """Return whether two points are equal by their JSON: true is not 1."""
    return point_text(a) == point_text(b)


def point_text(point: Params) -> str:
    """Return text that is equal for equal points, and for no others."""
    return json.dumps(point, sort_keys=True)


def override(key: str, value: Any, groups: Sequence[str]) -> str:
    """Return `KEY=VALUE` in Hydra's grammar, which is read back as exactly this value."""
    if key in groups and isinstance(value, str):
        return f"{key}={value}"
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{_literal(item)}' for name, item in value.items())}}}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Quote text. In Hydra's grammar only backslashes before a quote, or at the end, are escaped."""
    body, backslashes = "", ""
    for character in text:
        if character == "\\":
            backslashes += character
            continue
        body += backslashes * 2 + '\\"' if character == '"' else backslashes + character
        backslashes = ""
    return f'"{body}{backslashes * 2}"'


def config_groups(config_dirs: Sequence[str]) -> list[str]:
    """Return the names of the config groups: as dimensions they are chosen, not set."""
    with open_loader([Path(folder) for folder in config_dirs]) as loader:
        return loader.groups()


def point_words(words: Sequence[str], params: Params, groups: Sequence[str]) -> list[str]:
    """Return the overrides that compose the recipe of one point: groups before values inside them."""
    ordered = sorted(params, key=lambda key: key not in groups)
    return [*words, *(override(key, params[key], groups) for key in ordered)]
