"""Composition by Hydra: group options, the list of files, the merged mapping.

Only this module and `recipe_source` touch Hydra.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from galley.config.choices import RECIPE_GROUP
from galley.config.keys import is_known, suggest
from galley.config.project import groups_folder, option_path
from galley.config.provenance import Source, display_path, file_sources
from galley.config.recipe_file import RecipeFile, yaml_file, yaml_names
from galley.config.recipe_source import FILE_SCHEME, SCHEME, register
from galley.errors import Problem
from galley.paths import CONF, ROOT
from galley.quoting import override

# `recipe=NAME` of the command line is a file of recipes/, which lies beside conf/, not inside it.
RECIPE_CHOICE = f"{RECIPE_GROUP}@_global_"
SET = "++"  # in front of an override: the key need not be there
_MISSING_KEY = re.compile(r"Interpolation key '([^']*)' not found")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError)


@dataclass(frozen=True)
class Composed:
    """What Hydra made of a set of choices, for a caller who composes many recipes from the same files.

    Attributes:
        merged: configurations by the choices that made them.
        plain: the same as mappings, of those in which no value refers to another.
        files: (file, package) of what takes part, in merge order, by the choices.
        options: of each config group.
    """

    merged: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    plain: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    files: dict[tuple[str, ...], list[tuple[Path, str]]] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Loader:
    """Hydra's view of the shipped folders and of the user's (`--config-dir`)."""

    inner: ConfigLoader
    user_dirs: tuple[Path, ...]
    composed: Composed = field(default_factory=Composed)
    recipe_file: RecipeFile | None = None

    @property
    def search_override(self) -> str:
        folders = [f"{SCHEME}://{folder}" for folder in (ROOT, *self.user_dirs)]
        if self.recipe_file is not None:
            folders.append(f"{FILE_SCHEME}://{self.recipe_file.path}")
        return override(("hydra", "searchpath"), folders)

    def options(self, group: str) -> list[str]:
        """Names of all options of a config group, the user's included."""
        known = self.composed.options
        if group not in known:
            names = set(self.inner.get_group_options(group))
            for folder in (ROOT, *self.user_dirs):
                names |= yaml_names(option_path(folder, group))
            if self.recipe_file is not None and group == f"{RECIPE_GROUP}/{self.recipe_file.name}":
                names |= self.recipe_file.variants()
            known[group] = sorted(names)
        return known[group]

    def groups(self) -> list[str]:
        """Names of all config groups except the recipes."""
        roots = (CONF, *map(groups_folder, self.user_dirs))
        found = {child.name for root in roots for child in root.iterdir() if child.is_dir()}
        return sorted(found - {RECIPE_GROUP})

    def merged(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The composed mapping with interpolations resolved; raises Hydra's and OmegaConf's errors."""
        choices, known = _choices(overrides), self.composed.merged
        if choices not in known:
            known[choices] = compose("config", [self.search_override, *choices])
            plain = _mapping(known[choices], resolve=False)
            if plain == _mapping(known[choices], resolve=True):
                self.composed.plain[choices] = plain
        settings = [parse_override(text) for text in overrides if text.startswith(SET)]
        found = copy.deepcopy(self.composed.plain.get(choices))
        if found is not None and all(_set_value(found, setting) for setting in settings):
            return found
        config = copy.deepcopy(known[choices])
        for setting in settings:  # what Hydra itself does with such an override
            OmegaConf.update(config, setting.key_or_group, setting.value(), merge=True, force_add=True)
        return _mapping(config, resolve=True)

    def files(self, overrides: Sequence[str]) -> list[tuple[Path, str]]:
        """(file, package) of every YAML file that takes part, in merge order."""
        choices, known = _choices(overrides), self.composed.files
        if choices not in known:
            known[choices] = self._read_files(choices)
        return known[choices]

    def _read_files(self, choices: Sequence[str]) -> list[tuple[Path, str]]:
        found = self.inner.compute_defaults_list("config", [self.search_override, *choices], RunMode.RUN)
        pairs = []
        for default in found.defaults:
            path = self._find(default.config_path)
            if path is not None:
                package = default.package or ""
                pairs.append((path, "" if package in ("_global_", "<root>") else package))
        return pairs

    def chosen(self, group: str, overrides: Sequence[str]) -> str | None:
        """The option of a group that is in force."""
        return next((path.stem for path, package in self.files(overrides) if package == group), None)

    def sources(self, overrides: Sequence[str]) -> Iterator[Source]:
        """Every setting of every file, in merge order."""
        for path, package in self.files(overrides):
            yield from file_sources(path, package)

    def recipe_files(self, recipe: str) -> list[Path]:
        """The file of `NAME` or `NAME/VARIANT`, and that of what it varies."""
        names = [recipe, *([recipe.rpartition("/")[0]] if "/" in recipe else [])]
        found = [self._find(f"{RECIPE_GROUP}/{name}") for name in names]
        return [path for path in found if path is not None]

    def _find(self, config_path: str | None) -> Path | None:
        if config_path is None or config_path.startswith("hydra/"):
            return None
        found = [yaml_file(option_path(root, config_path)) for root in (CONF, ROOT, *self.user_dirs)]
        found += [self.recipe_file.find(config_path)] if self.recipe_file is not None else []
        return next((path for path in found if path is not None), None)

    def title_of(self, recipe: str) -> str:
        """The name of a recipe as a person knows it."""
        own = self.recipe_file
        return own.title if own is not None and recipe == own.name else recipe

    def recipe_of(self, file: Path) -> str:
        """NAME, or NAME/VARIANT, of a recipe's file."""
        parts = file.with_suffix("").parts
        by_path = None if self.recipe_file is None else self.recipe_file.name_of(file)
        return by_path or "/".join(parts[len(parts) - parts[::-1].index(RECIPE_GROUP) :])


def _mapping(config: DictConfig, resolve: bool) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=resolve))


def _set_value(container: dict[str, Any], setting: Override) -> bool:
    """What `OmegaConf.update` does, twenty times as fast, with a plain value in the place of another;
    false, and nothing done, where the key or the value asks for more.
    """
    value, (*parents, last) = setting.value(), setting.key_or_group.split(".")
    section: Any = container
    for name in parents:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section or isinstance(section[last], dict | list):
        return False
    special = isinstance(value, str) and ("${" in value or value == "???")
    if special or not (value is None or isinstance(value, bool | int | float | str)):
        return False
    section[last] = value
    return True


def _choices(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that choose files; the others set values in what the files make."""
    return tuple(text for text in overrides if not text.startswith(SET))


@contextmanager
def open_loader(
    user_dirs: Sequence[Path] = (), composed: Composed | None = None, recipe_file: RecipeFile | None = None
) -> Iterator[Loader]:
    """A loader over the shipped folders and the user's, closed again at the end."""
    register()
    outer = GlobalHydra.instance().hydra  # a sweep composes its points while its own recipe is checked
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            yield Loader(loader, tuple(user_dirs), Composed() if composed is None else composed, recipe_file)
    finally:
        GlobalHydra.instance().hydra = outer


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


@lru_cache(maxsize=512)
def parse_override(text: str) -> Override:
    """One override of the command line in Hydra's grammar; raises `HydraException`. Not to be changed:
    the next call with this text returns the same one."""
    return _parser().parse_override(text)


class _AsWritten(HydraOverrideVisitor):
    """Leaves numbers as the text that was typed."""

    def _createPrimitive(self, ctx: Any) -> Any:  # Hydra's name
        value = super()._createPrimitive(ctx)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return ctx.getText().strip() if is_number else value


def written_value(text: str) -> Any:
    """The value of an override, with numbers as they were typed: `1.10` rather than 1.1."""
    antlr: Any = overrides_parser  # its generated parser has no types
    lexer = antlr.OverrideLexer(antlr.InputStream(text))
    tree = antlr.OverrideParser(antlr.CommonTokenStream(lexer)).override()
    return _AsWritten(create_functions()).visit(tree).value()


def yaml_value(text: str) -> Any:
    """The value of a plain scalar in a YAML file, as composition reads it."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[call-overload,index]


def composition_problem(error: BaseException) -> Problem:
    """What Hydra, OmegaConf or the YAML reader found wrong, with the file where it is known."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        where = f"{display_path(Path(mark.name))}:{mark.line + 1}"
        return Problem(where, str(getattr(error, "problem", error)), "the file is not valid YAML")
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, yaml.YAMLError | OmegaConfBaseException):
        return composition_problem(cause)
    where = getattr(error, "full_key", None) or "recipe"
    missing = _MISSING_KEY.match(str(error))
    if missing is not None:
        return Problem(str(where), *_reference(missing[1]))
    return Problem(str(where), " ".join(str(error).split()))


def _reference(name: str) -> tuple[str, str]:
    """What is wrong with `${name}`, and what to write."""
    if name in os.environ or name.isupper():
        what = f"'${{{name}}}' names a key of the recipe, and there is none: variables are written otherwise"
        return what, f"for the environment variable write ${{oc.env:{name}}}"
    if name in ("recipe", "profile"):
        return f"'${{{name}}}' is not known while the recipe is read", "write the name itself"
    if is_known(name):
        what = f"'${{{name}}}' names a key that no file and no override sets"
        return what, f"set {name}, or write its value"
    return f"'${{{name}}}' names a key that there is not", suggest(name)
