"""Points that are known before the sweep (`hpo.points`). They are tried first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from galley.errors import ConfigError, Problem, valid_values
from hpo.space.points import same_point
from hpo.study.values import Params, SpaceDim

_FORM = "a list of points in YAML or JSON, each with a value for every dimension: - {optim.lr: 1e-4, …}"
_NEAR = 1e-9  # tolerance, as a share of a step, for a value that is on a step


def read_known_points(file: str | None, space: Sequence[SpaceDim]) -> list[Params]:
    """Return the points of the file, in its order, as the sweep writes them; none without a file.

    Raises `ConfigError` with every value that is not in the space.
    """
    if file is None:
        return []
    written = _read(file)
    problems: list[Problem] = []
    points: list[Params] = []
    for number, point in enumerate(written):
        where = f"{file}: point {number}"
        point_problems = list(_problems(where, point, space))
        problems += point_problems
        if not point_problems:
            points.append({dim.key: _plain(dim, point[dim.key]) for dim in space if dim.key in point})
            if any(same_point(points[-1], other) for other in points[:-1]):
                problems.append(
                    Problem(where, "is there twice", "each point once; hpo.repeats=N runs N seeds")
                )

    if problems:
        raise ConfigError(problems)
    return points


def _read(file: str) -> list[Any]:
    """Return the list in the file. Raises `ConfigError` if there is none."""
    try:
        written = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise ConfigError(Problem(f"hpo.points={file}", f"cannot be read: {reason}", _FORM)) from error
    if not isinstance(written, list) or not written:
        raise ConfigError(Problem(f"hpo.points={file}", "is not a list of points", _FORM))
    return written


def _problems(where: str, point: Any, space: Sequence[SpaceDim]) -> Iterator[Problem]:
    """Yield what is wrong with one point."""
    if not isinstance(point, Mapping):
        yield Problem(where, f"{point!r} is not a point", _FORM)
        return
    keys = [dim.key for dim in space]
    for key in point:
        if key not in keys:
            yield Problem(where, f"'{key}' is no dimension of the space", valid_values(str(key), keys))
    for dim in space:
        if not dim.is_active(dict(point)):
            if dim.key in point:
                yield Problem(where, f"'{dim.key}' does not exist at this point", f"only when {dim.when}")
        elif dim.key not in point:
            yield Problem(where, f"has no value of '{dim.key}'", _FORM)
        elif not is_value(dim, _plain(dim, point[dim.key])):
            yield Problem(where, f"{point[dim.key]!r} is no value of '{dim.key}'", _values(dim))


def is_value(dim: SpaceDim, value: Any) -> bool:
    """Return whether the dimension has this value."""
    if dim.kind == "categorical":
        return any(same_point({"": value}, {"": choice}) for choice in dim.choices)
    if isinstance(value, bool) or not isinstance(value, int if dim.kind == "int" else int | float):
        return False
    low, high = dim.bounds
    steps = 0.0 if dim.step is None else (value - low) / dim.step
    return low <= value <= high and abs(steps - round(steps)) <= _NEAR * max(1.0, steps)


def _plain(dim: SpaceDim, value: Any) -> Any:
    """Return the value as the sweep would draw it.

    `1e-4` is text to plain YAML, and 8.0 becomes 8 if the dimension takes whole numbers.
    """
    if dim.kind == "categorical":
        return value
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return value
    if dim.kind == "float":
        return float(number)
    return int(number) if float(number).is_integer() else number


def _values(dim: SpaceDim) -> str:
    if dim.kind == "categorical":
        return f"valid: {', '.join(map(str, dim.choices))}"
    step = "" if dim.step is None else f" in steps of {dim.step:g}"
    return f"valid: {dim.low:g} to {dim.high:g}{step}"
