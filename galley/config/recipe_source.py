"""How Hydra reads a recipe: a group may be chosen by a plain word, as in `strategy: zero2`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig, OmegaConf

from galley.config.choices import ALIASES, RECIPE_GROUP
from galley.config.project import option_path
from galley.config.provenance import display_path
from galley.config.recipe_file import RecipeFile, yaml_file
from galley.config.validate import MISSING, MUST_BE_GIVEN
from galley.errors import ConfigError, Problem
from galley.paths import CONF

SCHEME = "galley"
FILE_SCHEME = "galley-file"
_OVERRIDE = "override "


class RecipeSource(FileConfigSource):
    """A folder with recipes and options. Every way to name an option in a recipe means the same choice:

    `strategy: zero2` in its body, and `strategy: zero2`, `/strategy: zero2` or
    `override /strategy: zero2` in its list of defaults.
    """

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def find(self, config_path: str) -> Path | None:
        return yaml_file(option_path(Path(self.path), config_path.removesuffix(".yaml")))

    def is_group(self, config_path: str) -> bool:
        return option_path(Path(self.path), config_path).is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names: list[str] = []
        for file in option_path(Path(self.path), config_path).iterdir():
            self._list_add_result(names, f"{config_path}/{file.name}", file.name, results_filter)
        return sorted(set(names))

    def is_config(self, config_path: str) -> bool:
        return self.find(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        file = self.find(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found : {self.path}/{config_path}")
        text = file.read_text(encoding="utf-8")
        header = self._get_header_dict(text[:512])
        found = ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.load(file), header)
        plain = OmegaConf.to_container(found.config, resolve=False)
        if plain != (marked := _marked(plain)):
            found.config = OmegaConf.create(marked)
        if config_path.startswith(f"{RECIPE_GROUP}/") and isinstance(found.config, DictConfig):
            _choose(found.config, str(file))
        return found


class FileSource(RecipeSource):
    """A recipe that is named by its path; `path` of the source is that of the file."""

    @staticmethod
    def scheme() -> str:
        return FILE_SCHEME

    def find(self, config_path: str) -> Path | None:
        return RecipeFile(Path(self.path)).find(config_path)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", RECIPE_GROUP, f"{RECIPE_GROUP}/{RecipeFile(Path(self.path)).name}")

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


def register() -> None:
    """Make Hydra know the schemes. Does nothing the second time."""
    SourcesRegistry.instance().register(RecipeSource)
    SourcesRegistry.instance().register(FileSource)


@cache
def groups() -> frozenset[str]:
    """The shipped config groups."""
    return frozenset(child.name for child in CONF.iterdir() if child.is_dir())


def _marked(value: Any) -> Any:
    """Merging would keep a weaker file's value in the place of a `???`."""
    if isinstance(value, dict):
        return {name: _marked(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_marked(one) for one in value]
    return MUST_BE_GIVEN if isinstance(value, str) and value == MISSING else value


def _choose(config: DictConfig, file: str) -> None:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    words = {name: value for name, value in plain.items() if name in groups() and isinstance(value, str)}
    listed = plain.get("defaults", [])
    if not isinstance(listed, list):
        return
    chosen = [{f"{_OVERRIDE}/{name}": ALIASES.get((name, word), word)} for name, word in words.items()]
    # Hydra wants choices behind everything else.
    ordered = sorted([*(_entry(entry) for entry in listed), *chosen], key=_is_choice)
    _check_once(ordered, file)
    if ordered != listed:
        config["defaults"] = OmegaConf.create(ordered)
    for name in words:
        del config[name]


def _entry(entry: Any) -> Any:
    """An entry of a list of defaults; one that names a group is the choice of an option."""
    if not isinstance(entry, dict):
        return entry
    return {_choice(key): value for key, value in entry.items()}


def _choice(key: str) -> str:
    name = str(key).removeprefix(_OVERRIDE).strip().removeprefix("/")
    return f"{_OVERRIDE}/{name}" if name in groups() else key


def _is_choice(entry: Any) -> bool:
    return isinstance(entry, dict) and any(str(key).startswith(_OVERRIDE) for key in entry)


def _check_once(entries: list[Any], file: str) -> None:
    """Hydra takes the first of two choices in one file."""
    chosen: dict[str, Any] = {}
    for entry in filter(_is_choice, entries):
        for key, option in entry.items():
            if chosen.setdefault(key, option) != option:
                group = key.removeprefix(f"{_OVERRIDE}/")
                what = f"{group} is chosen twice: {chosen[key]} and {option}"
                raise ConfigError(Problem(display_path(Path(file)), what, "keep one of them"))
