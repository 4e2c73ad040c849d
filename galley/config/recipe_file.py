"""A recipe that is named by its path: `recipe=path/to/my.yaml`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galley.config.choices import RECIPE_GROUP
from galley.errors import ConfigError, Problem
from galley.quoting import override

ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe outside the folders of recipes, with its variants and the recipes beside it."""

    path: Path

    @property
    def name(self) -> str:
        """Its name among the recipes, which no other one has, whatever the file is called."""
        return f"file-{hashlib.sha256(str(self.path).encode()).hexdigest()[:8]}"

    @property
    def title(self) -> str:
        """The file's name, fit to be a part of the name of a run."""
        return re.sub(r"[^\w.-]+", "-", self.path.stem)

    def find(self, config_path: str) -> Path | None:
        """The file of `recipes/NAME` or `recipes/NAME/VARIANT`, if it is this recipe or beside it."""
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        head, _, variant = name.partition("/")
        if group != RECIPE_GROUP or not name:
            return None
        if head == self.name:
            return yaml_file(self.path.with_suffix("") / variant) if variant else self.path
        return yaml_file(self.path.parent / name)

    def variants(self) -> set[str]:
        return yaml_names(self.path.with_suffix(""))

    def name_of(self, file: Path) -> str | None:
        """NAME or NAME/VARIANT of a file that `find` gives."""
        if file == self.path:
            return self.name
        if file.parent == self.path.with_suffix(""):
            return f"{self.name}/{file.stem}"
        return file.stem if file.parent == self.path.parent else None


def yaml_file(base: Path) -> Path | None:
    """Return `base` with one of the endings, or None if there is no such file.

    Raises `ConfigError` if there is one with each ending: which of them is meant would be a guess.
    """
    found = [base.with_name(base.name + ending) for ending in ENDINGS]
    found = [file for file in found if file.is_file()]
    if len(found) > 1:
        what = f"goes by the same name as {found[1]}"
        raise ConfigError(Problem(str(found[0]), what, "rename or remove one of them"))
    return found[0] if found else None


def yaml_names(folder: Path) -> set[str]:
    """Names of the YAML files of a folder, without endings."""
    return {file.stem for ending in ENDINGS for file in folder.glob(f"*{ending}")}


def by_path(value: object) -> RecipeFile | None:
    """The file that a recipe's name is the path of."""
    if not isinstance(value, str) or not value.endswith(ENDINGS):
        return None
    return RecipeFile(Path(value).expanduser().absolute())


def asked_file(words: Sequence[str]) -> RecipeFile | None:
    """The file that `recipe=PATH` names, the last one of `words`."""
    from hydra.errors import HydraException

    from galley.config.hydra_bridge import parse_override

    asked = [word for word in words if word.startswith("recipe=")]
    try:
        return by_path(parse_override(asked[-1]).value()) if asked else None
    except HydraException:
        return None  # what is wrong with the word is told where all words are read


def with_absolute_path(words: Sequence[str]) -> list[str]:
    """`words` that mean the same recipe from whichever folder."""
    file = asked_file(words)
    if file is None:
        return list(words)
    return [override(["recipe"], str(file.path)) if word.startswith("recipe=") else word for word in words]
