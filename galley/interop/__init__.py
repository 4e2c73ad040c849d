"""DeepSpeed's and Accelerate's configuration files, read as recipes and written from them.

`strategy.deepspeed_config=FILE.json` and `strategy.accelerate_config=FILE.yaml` describe a strategy,
and whatever else of a recipe their engines know. Three rules:

- What a file does not state, or calls `"auto"`, is the recipe's.
- What it states and the recipe or the command line states too must agree; but where it runs (`cluster.*`,
  `launcher.*`) the command line may say otherwise.
- What cannot be honored is refused by its name; nothing is dropped in silence.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from galley.config.keys import is_known
from galley.config.provenance import Source
from galley.errors import ConfigError, Problem
from galley.interop.reading import Reading
from galley.schema import Recipe, Strategy

FILES = ("deepspeed_config", "accelerate_config")
# Where a file's processes run is whoever starts them to say: the command line wins.
PLACES = ("cluster", "launcher")
# Sections that one launcher alone reads -> that launcher.
LAUNCHER_OF = {"launcher.torchrun": "local", "launcher.mpi": "mpi"}
# Two words for one knob: stating the second contradicts the first.
RIVALS = {"schedule.warmup_steps": "schedule.warmup_ratio", "launcher.mpi.hostfile": "launcher.mpi.hosts"}


@dataclass(frozen=True)
class Absorbed:
    """A composed mapping with what outside files set in it.

    Attributes:
        sources: each key that a file set, with the file, the line and the file's own key.
    """

    container: dict[str, Any]
    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]


def names_outside_file(container: Mapping[str, Any]) -> bool:
    """Whether the recipe takes anything from an outside file."""
    section = container.get("strategy")
    return isinstance(section, Mapping) and any(isinstance(section.get(name), str) for name in FILES)


def absorb(
    container: Mapping[str, Any], explicit: Mapping[str, Source], typed: Collection[str] = ()
) -> Absorbed:
    """The mapping with the values of its outside files, and every mistake in them.

    `explicit` are the settings of the recipe and of the command line (`explicit_sources`), `typed` the
    keys and groups of the command line. The
    strategy is the file's: of the section's other keys only explicit ones and those stay that the
    file calls `auto`.
    """
    merged = copy.deepcopy(dict(container))
    try:
        readings = _read_files(container["strategy"], explicit)
    except ConfigError as error:
        return Absorbed(merged, (), error.problems)
    ours = {key for key in explicit if key in typed or key.split(".")[0] in typed}
    sources = list(_placed([source for r in readings for source in r.sources], container, ours))
    problems = [problem for reading in readings for problem in reading.problems]
    conflicts = {s.key: list(_conflicts(s, container, explicit)) for s in reversed(sources)}
    problems += [*_disagreements(sources), *(p for key in reversed(conflicts) for p in conflicts[key])]
    problems += [_no_such_key(source) for source in sources if not is_known(source.key)]
    left = {key for reading in readings for key in reading.left_to_recipe}
    merged["strategy"] = _kept_strategy(container["strategy"], {*explicit, *left})
    for source in sources:
        rival = RIVALS.get(source.key) in explicit and conflicts[source.key]
        if is_known(source.key) and not rival:  # else the recipe's rules say the same once more
            _set(merged, source.key, source.value)
    _name_strategy(merged["strategy"])
    return Absorbed(merged, tuple(sources), tuple(problems))


def _read_files(section: Mapping[str, Any], explicit: Mapping[str, Source]) -> list[Reading]:
    from galley.interop.accelerate import read_accelerate
    from galley.interop.deepspeed import read_deepspeed

    named = {name: Path(section[name]).expanduser() for name in FILES if isinstance(section.get(name), str)}
    place = {name: f"strategy.{name}" for name in FILES}
    place |= {name: explicit[key].where for name, key in place.items() if key in explicit}
    deepspeed = named.get("deepspeed_config")
    if deepspeed is not None and "accelerate_config" not in named:
        return [read_deepspeed(deepspeed, place["deepspeed_config"])]
    readings = read_accelerate(named["accelerate_config"], place["accelerate_config"], deepspeed)
    if deepspeed is not None and len(readings) == 1 and not readings[0].problems:
        what = (
            f"'{deepspeed}' is not used: distributed_type of '{named['accelerate_config']}' is not DEEPSPEED"
        )
        raise ConfigError(Problem(place["deepspeed_config"], what, "leave it out"))
    return readings


def _placed(sources: Sequence[Source], container: Mapping[str, Any], typed: set[str]) -> Iterator[Source]:
    """Without what the command line says otherwise, and without what the launcher does not read.

    Machines meet at a rendezvous only under `launcher=local`, and only if there are several.
    """
    left = [s for s in sources if s.key.split(".")[0] not in PLACES or not {s.key, RIVALS.get(s.key)} & typed]
    values = {key: _get(container, key) for key in ("launcher.kind", "cluster.nodes")}
    values |= {source.key: source.value for source in left if source.key in values}
    for source in left:
        section = source.key.rpartition(".")[0]
        alone = section == "launcher.torchrun" and values["cluster.nodes"] in (None, 1)
        if not alone and LAUNCHER_OF.get(section, values["launcher.kind"]) == values["launcher.kind"]:
            yield source


def _disagreements(sources: Sequence[Source]) -> Iterator[Problem]:
    """One recipe key that the files set twice, to different values."""
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.key, source)
        if not _same(other.value, source.value):
            what = f"sets {source.key} to {source.value!r}, but {other.where} sets it to {other.value!r}"
            yield Problem(source.where, what, "make them equal, or remove one of them")


def _conflicts(
    source: Source, container: Mapping[str, Any], explicit: Mapping[str, Source]
) -> Iterator[Problem]:
    for key in filter(None, (source.key, RIVALS.get(source.key))):
        stated = explicit.get(key)
        value = _get(container, key)
        if stated is None or _is_unset(key, value) or (key == source.key and _same(value, source.value)):
            continue
        what = f"{key} is {value!r} here, but {source.where} sets {source.key} to {source.value!r}"
        hint = 'make them equal, leave one of them out, or write "auto" in the file'
        yield Problem(stated.where, what, hint)


def _no_such_key(source: Source) -> Problem:
    return Problem(source.where, f"cannot be honored: there is no {source.key} in a recipe", "remove it")


def _is_unset(key: str, value: Any) -> bool:
    """Null asks for nothing where null is the default."""
    default: Any = Recipe()
    for name in key.split("."):
        default = default.get(name) if isinstance(default, dict) else getattr(default, name, None)
    return value is None and default is None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _kept_strategy(section: Mapping[str, Any], kept: set[str]) -> dict[str, Any]:
    keys = {key.split(".")[1] for key in kept if key.startswith("strategy.")} | set(FILES)
    return {name: copy.deepcopy(value) for name, value in section.items() if name in keys}


def _name_strategy(section: dict[str, Any]) -> None:
    """A wrong value leaves the name out; the value is reported when the recipe is checked."""
    from galley.spec import adapter
    from galley.strategy.names import strategy_name

    try:
        section.setdefault("name", strategy_name(adapter(Strategy).validate_python(section)))
    except ValidationError:
        return


def _get(container: Mapping[str, Any], key: str) -> Any:
    value: Any = container
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(container: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    section = container
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}
        section = section[parent]
    section[last] = value
