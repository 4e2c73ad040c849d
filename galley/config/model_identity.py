"""What a recipe says of one model falls away where another model is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galley.config.choices import RECIPE_GROUP
from galley.config.provenance import Source, file_sources
from galley.errors import Problem

if TYPE_CHECKING:
    from galley.config.hydra_bridge import Loader

SECTION = "model."
NAMES = ("name", "architecture")
SIZES = ("num_parameters", "shape")
OF_NAME = ("architecture", "config", "tokenizer", "trust_remote_code", *SIZES)
"""Describes a pretrained model. Its configuration and tokenizer are those of its folder."""
OF_ARCHITECTURE = ("config", "trust_remote_code", *SIZES)
_NULL = ("", "~", "null")

Layer = Mapping[str, Source]
"""Settings under `model` that belong together, of one file or of the command line, by the rest of the key."""


def outdated(overrides: Sequence[str], typed: Sequence[Source], loader: Loader) -> list[Source]:
    """Settings that describe a model in whose place a stronger file or the command line has named another.

    Each has the value that is in force instead: that of the other model's option, or null with the place
    that named the other model. A value over the model's configuration makes a model of another size, too.
    """
    layers, left_out = file_layers(tuple(overrides), loader)
    found, current = replaced([*layers, layer(typed)])
    restored = [current[key] for key in left_out if key in current]
    return restored + [source for key, source in {**left_out, **found}.items() if key not in current]


def file_layers(overrides: Sequence[str], loader: Loader) -> tuple[list[Layer], Layer]:
    """The layers of the files, weakest first, and what was left out of them.

    A recipe's own description is of the model that the recipe chooses. It is left out if a stronger
    recipe or the command line chooses another option.
    """
    chosen = loader.chosen("model", overrides)
    layers: list[Layer] = []
    left_out: dict[str, Source] = {}
    for path, package in loader.files(overrides):
        if package not in ("", "model"):
            continue
        one = layer(list(file_sources(path, package)))
        described = [key for key in one if _root(key) in OF_NAME]
        if described and package == "" and "name" not in one and _model_of(path, loader) != chosen:
            left_out |= {key: Source(f"{SECTION}{key}", f"model={chosen}", None) for key in described}
            one = {key: source for key, source in one.items() if key not in described}
        layers.append(one)
    return layers, left_out


def layer(sources: Sequence[Source]) -> Layer:
    """The part of `sources` that lies under `model`, mappings as single keys."""
    inside = (source for source in sources if source.key.startswith(SECTION))
    return {one.key.removeprefix(SECTION): one for source in inside for one in _single(source)}


def _single(source: Source) -> Iterator[Source]:
    if not isinstance(source.value, dict):
        yield source
        return
    for name, value in source.value.items():
        yield from _single(Source(f"{source.key}.{name}", source.where, value))


def replaced(layers: Sequence[Layer]) -> tuple[dict[str, Source], Layer]:
    """What describes another model than the one that is named last, and the settings that are in force."""
    current: dict[str, Source] = {}
    found: dict[str, Source] = {}
    for one in layers:
        renamed = [key for key in NAMES if key in one and _value(one, key) != _value(current, key)]
        sized = [key for key in one if _root(key) == "config"]
        dropped = OF_NAME if "name" in renamed else OF_ARCHITECTURE if renamed else SIZES if sized else ()
        for key in [key for key in current if _root(key) in dropped and key not in one]:
            del current[key]
            found[key] = Source(f"{SECTION}{key}", one[[*renamed, *sized][0]].where, None)
        current |= one
    return found, current


def _root(key: str) -> str:
    return key.split(".")[0]


def _value(one: Layer, key: str) -> Any:
    """Files give text, in which null has several spellings."""
    value = one[key].value if key in one else None
    return None if value in _NULL else value


def _model_of(path: Path, loader: Loader) -> str | None:
    """The option of `model` that a recipe chooses by itself."""
    return loader.chosen("model", [f"{RECIPE_GROUP}@_global_={loader.recipe_of(path)}"])


def settle(container: dict[str, Any], settings: Sequence[Source]) -> None:
    """Put the values of `settings` into a composed mapping; null is the default of the key."""
    from galley.config.hydra_bridge import yaml_value

    for source in settings:
        *parents, last = source.key.split(".")
        section: Any = container
        for name in parents:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        section.pop(last, None)
        if source.value is not None:
            section[last] = yaml_value(source.value) if isinstance(source.value, str) else source.value


def size_of_a_sweep(container: Mapping[str, Any], typed: Mapping[str, str]) -> Iterator[Problem]:
    """A typed size would be that of every model of a sweep over models."""
    hpo = container.get("hpo")
    space = hpo.get("space") if isinstance(hpo, dict) else None
    swept = _models_in(space) if isinstance(space, dict) else []
    for key, text in typed.items():
        if swept and key.removeprefix(SECTION).split(".")[0] in SIZES and key.startswith(SECTION):
            what = f"is the size of one model, but the sweep has several ({swept[0]})"
            yield Problem(text, what, "leave it out: each model's own size is read, or counted")


def _models_in(space: Mapping[str, Any]) -> list[str]:
    """Keys of a search space that take several models. `model` is the group, or holds keys below it."""
    model = space.get("model")
    below = {f"{SECTION}{name}": value for name, value in model.items()} if isinstance(model, dict) else {}
    group = [] if isinstance(model, dict) or model is None else ["model"]
    return group + [key for key in (f"{SECTION}{name}" for name in NAMES) if key in {**space, **below}]
