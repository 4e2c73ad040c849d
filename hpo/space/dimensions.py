"""Read the search space of a recipe as dimensions, which are independent of any backend.

    hpo:
      space:
        optim.lr: {low: 1e-6, high: 1e-4, log: true}
        batch.global_size: [16, 32, 64]
        strategy: [ddp, zero2]
        strategy.offload_optimizer: {choices: [none, cpu], when: {strategy: zero2}}
        schedule.warmup_ratio: interval(0, 0.2)

Keys may be nested, as everywhere in a recipe. Text is Hydra's sweep syntax: `choice(a, b)` or `a,b`,
`range(start, stop, step)` without its stop, `interval(low, high)`, and `tag(log, …)` around them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from galley.config.keys import accepts, leaf_types
from galley.errors import ConfigError, Problem, nearest, valid_values
from hpo.study.values import SpaceDim

WORDS = ("low", "high", "step", "log", "choices", "when", "type")
FORMS = (
    "a list of choices, {low, high, log, step}, {choices, when}, or interval(), range(), choice() of Hydra"
)
FIXED = ("hpo", "run_dir", "detach", "after", "recipe", "profile", "launcher.kind", "launcher")
_MULTIPLE = 1e-9  # tolerance, as a share of a step, for a range that is a whole number of steps


def read_space(space: Mapping[str, Any]) -> tuple[SpaceDim, ...]:
    """Return the dimensions, each after those that its `when` names.

    Raises `ConfigError` with every mistake that can be seen without composing a recipe.
    """
    problems: list[Problem] = []
    dims: dict[str, SpaceDim] = {}
    for key, written in _flatten(space):
        try:
            dims[key] = _read(key, written)
        except ConfigError as error:
            problems += error.problems
    for dim in dims.values():
        problems += _condition_problems(dim, dims)
    if problems:
        raise ConfigError(problems)
    return _in_order(dims)


def _flatten(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and what is written for them."""
    for name, written in space.items():
        key = f"{prefix}{name}"
        is_section = isinstance(written, Mapping) and key not in leaf_types()
        if is_section and not {"low", "high", "choices"} & written.keys():
            yield from _flatten(written, f"{key}.")
        else:
            yield key, written


def _problem(key: str, what: str, hint: str = "") -> ConfigError:
    return ConfigError(Problem(f"hpo.space.{key}", what, hint))


def _read(key: str, written: Any) -> SpaceDim:
    """Read one dimension. Raises `ConfigError`."""
    if any(key == name or key.startswith(f"{name}.") for name in FIXED if name != "launcher"):
        raise _problem(key, "is the sweep's own and cannot be searched", "choose another key")
    if isinstance(written, str):
        return _checked(_read_hydra(key, written))
    if isinstance(written, Sequence):
        return _checked(SpaceDim(key, "categorical", choices=tuple(written)))
    if not isinstance(written, Mapping):
        raise _problem(key, f"{written!r} is one value, not a range of values", FORMS)
    unknown = [word for word in written if word not in WORDS]
    if unknown:
        what = f"'{unknown[0]}' is not a word of a dimension"
        raise _problem(key, what, valid_values(unknown[0], WORDS))
    return _checked(_read_words(key, written))


def _read_words(key: str, written: Mapping[str, Any]) -> SpaceDim:
    """Read a dimension that is written as a mapping."""
    when = {parent: _as_tuple(values) for parent, values in (written.get("when") or {}).items()}
    if "choices" in written:
        if {"low", "high", "step", "log"} & written.keys():
            raise _problem(key, "has choices and a range", "keep one of them")
        return SpaceDim(key, "categorical", choices=_as_tuple(written["choices"]), when=when)

    low, high = (_number(key, name, written.get(name)) for name in ("low", "high"))
    step = None if written.get("step") is None else _number(key, "step", written["step"])
    kind = _kind(key, (low, high, 1 if step is None else step), written.get("type"))
    log = written.get("log", False)
    if not isinstance(log, bool):
        raise _problem(key, f"log: {log!r} is not true or false")
    return SpaceDim(key, kind, low, high, step, log, when=when)


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def _number(key: str, name: str, value: Any) -> float:
    if isinstance(value, str):  # 1e-5 is text to plain YAML
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _problem(key, f"{name} is not a finite number", "a range needs low and high: {low: 1, high: 8}")
    return value


def _kind(key: str, numbers: Sequence[float], asked: Any) -> Literal["float", "int"]:
    """Return `int` if the recipe's key takes only whole numbers, also if they are written as 8.0."""
    if asked not in (None, "float", "int"):
        raise _problem(key, f"type: {asked!r} is not a type", "valid: float, int")
    known = key in leaf_types()
    is_int = asked == "int" or (known and not accepts(key, float))
    whole = all(isinstance(_whole(number) if is_int else number, int) for number in numbers)
    if asked is None:
        asked = ("float" if accepts(key, float) else "int") if known else ("int" if whole else "float")
    if asked == "int" and not whole:
        raise _problem(key, "takes whole numbers, but its range has others", "low, high and step: integers")
    return "int" if asked == "int" else "float"


def _read_hydra(key: str, text: str) -> SpaceDim:
    """Read a dimension in Hydra's sweep syntax."""
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep, Sweep
    from hydra.errors import HydraException

    from galley.config.hydra_bridge import parse_override

    try:
        sweep: Any = parse_override(f"key={text}").value()
    except HydraException as error:
        raise _problem(key, f"cannot be read: {str(error).splitlines()[0]}", FORMS) from error
    if not isinstance(sweep, Sweep) or not isinstance(sweep, ChoiceSweep | IntervalSweep | RangeSweep):
        raise _problem(key, f"'{text}' is one value, not a range of values", FORMS)
    tags = sorted(set(sweep.tags) - {"log"})
    if tags:
        raise _problem(key, f"tag '{tags[0]}' has no meaning here", "valid: log")

    log = "log" in sweep.tags
    if isinstance(sweep, ChoiceSweep):
        if log:
            raise _problem(key, "choices have no logarithm", "write tag(log, interval(low, high))")
        return SpaceDim(key, "categorical", choices=tuple(_plain(value) for value in sweep.list))
    if isinstance(sweep, IntervalSweep):
        low, high = _number(key, "low", sweep.start), _number(key, "high", sweep.end)
        return SpaceDim(key, _kind(key, (_whole(low), _whole(high)), None), low, high, log=log)
    if sweep.start is None or sweep.stop is None:
        raise _problem(key, f"'{text}' has no end", FORMS)
    return _range(key, sweep.start, sweep.stop, sweep.step, log)


def _range(key: str, start: float, stop: float, step: float, log: bool) -> SpaceDim:
    """Return the dimension of a Hydra range, which does not include its stop."""
    if step <= 0 or stop <= start:
        raise _problem(key, f"range({start}, {stop}, {step}) is empty", "start < stop and step > 0")
    count = math.ceil((stop - start) / step - _MULTIPLE)
    high = start + (count - 1) * step
    numbers = (_whole(start), _whole(high), _whole(step))
    kind = _kind(key, numbers, None)
    return SpaceDim(key, kind, start, high, None if (kind == "int" and step == 1) else step, log)


def _whole(number: float) -> float:
    """Return an integer if the number is whole: `8.0` means 8 if the key takes whole numbers."""
    return int(number) if float(number).is_integer() else number


def _plain(value: Any) -> Any:
    """Return a value of Hydra's grammar as the override parser passes it to the configuration."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    return value


def _checked(dim: SpaceDim) -> SpaceDim:
    """Return the dimension with bounds of its kind.

    Raises `ConfigError` if it holds no value, or contradicts itself.
    """
    if dim.kind == "categorical":
        return _checked_choices(dim)
    (low, high), step = dim.bounds, dim.step
    if low > high:
        raise _problem(dim.key, f"low {low:g} is above high {high:g}", "low <= high")
    if dim.log and low <= 0:
        raise _problem(dim.key, f"low {low:g} has no logarithm", "log: true needs low > 0")
    if step is not None and step <= 0:
        raise _problem(dim.key, f"step {step:g} does not go up", "step > 0")
    if dim.log and step is not None:
        raise _problem(dim.key, "has a step and a logarithm", "keep one of them")

    if step is not None:
        count = (high - low) / step
        if abs(count - round(count)) > _MULTIPLE * max(1.0, count):
            last = low + math.floor(count) * step
            raise _problem(dim.key, f"high {high:g} is no whole number of steps above low", f"high: {last:g}")

    number = int if dim.kind == "int" else float
    return replace(dim, low=number(low), high=number(high), step=None if step is None else number(step))


def _checked_choices(dim: SpaceDim) -> SpaceDim:
    """Return the dimension. Raises `ConfigError` for choices that a study cannot keep apart or store."""
    if not dim.choices:
        raise _problem(dim.key, "has no choices", "a list of at least one value")
    odd = [choice for choice in dim.choices if isinstance(choice, float) and not math.isfinite(choice)]
    if odd:
        raise _problem(
            dim.key, f"{odd[0]!r} is not a finite number", "JSON, which a study is kept in, has none"
        )
    twice = [choice for i, choice in enumerate(dim.choices) if _holds(dim.choices[:i], choice)]
    if twice:
        raise _problem(dim.key, f"has {twice[0]!r} twice", "each choice once")
    return dim


def _holds(values: Sequence[Any], value: Any) -> bool:
    """Return whether `value` is among them; 1, 1.0 and true are three values."""
    return any(type(other) is type(value) and other == value for other in values)


def _condition_problems(dim: SpaceDim, dims: Mapping[str, SpaceDim]) -> Iterator[Problem]:
    """Yield what is wrong with the conditions of a dimension."""
    for key, values in dim.when.items():
        where, parent = f"hpo.space.{dim.key}.when.{key}", dims.get(key)
        if parent is None:
            what = f"'{key}' is no dimension of the space"
            yield Problem(where, what, valid_values(key, [name for name in dims if name != dim.key]))
        elif parent.kind == "float":
            yield Problem(where, "is a continuous dimension, which has no single values", "choices or int")
        else:
            for value in values:
                if not _takes(parent, value):
                    names = [str(choice) for choice in parent.choices]
                    hint = nearest(str(value), names) or f"valid: {', '.join(names) or _bounds(parent)}"
                    yield Problem(where, f"{value!r} is no value of '{key}'", hint)


def _takes(dim: SpaceDim, value: Any) -> bool:
    if dim.kind == "categorical":
        return _holds(dim.choices, value)
    low, high = dim.bounds
    return isinstance(value, int) and low <= value <= high


def _bounds(dim: SpaceDim) -> str:
    return f"{dim.low} to {dim.high}"


def _in_order(dims: Mapping[str, SpaceDim]) -> tuple[SpaceDim, ...]:
    """Return the dimensions as written, but each after its parents."""
    ordered: dict[str, SpaceDim] = {}
    while len(ordered) < len(dims):
        ready = [dim for key, dim in dims.items() if key not in ordered and dim.when.keys() <= ordered.keys()]
        if not ready:
            circle = ", ".join(key for key in dims if key not in ordered)
            raise ConfigError(Problem("hpo.space", f"conditions go in a circle: {circle}", "drop one `when`"))
        ordered[ready[0].key] = ready[0]
    return tuple(ordered.values())
