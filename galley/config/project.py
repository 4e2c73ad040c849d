"""A user's folder of recipes and config groups: a project, or a folder that `--config-dir` names.

    PROJECT/recipes/NAME.yaml  PROJECT/conf/GROUP/OPTION.yaml     `recipes/` and `conf/` make it a project
    FOLDER/recipes/NAME.yaml   FOLDER/GROUP/OPTION.yaml           any other folder

Galley's own `recipes/` and `conf/` lie like those of a project.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from galley.config.choices import RECIPE_GROUP
from galley.paths import current_folder


def is_project(folder: Path) -> bool:
    """Return whether both `recipes/` and `conf/` are there."""
    return (folder / RECIPE_GROUP).is_dir() and (folder / "conf").is_dir()


def groups_folder(folder: Path) -> Path:
    """Return the folder that has a folder for each config group."""
    return folder / "conf" if is_project(folder) else folder


def option_path(folder: Path, config_path: str) -> Path:
    """Return where `recipes/NAME`, `GROUP/OPTION` or a group itself lies."""
    is_recipe = config_path.split("/")[0] == RECIPE_GROUP
    return (folder if is_recipe else groups_folder(folder)) / config_path


def current_project() -> Path | None:
    """Return the current folder if it is a project, None otherwise.

    A checkout of Galley is none: its recipes and options are those that come with Galley.
    """
    here = current_folder()
    if here is None or not is_project(here):
        return None
    is_program = (here / "galley" / "paths.py").is_file()
    return None if is_program else here


def config_dir_option(folder: Path) -> str:
    """Return the option, followed by a space, that makes Galley see the folder.

    It is empty for the current project, which Galley sees without.
    """
    return "" if folder.resolve() == current_project() else f"--config-dir {shlex.quote(str(folder))} "
