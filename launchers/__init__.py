"""A sealed run -> a launch plan -> a running job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galley.registry import LAUNCHERS

if TYPE_CHECKING:
    from launchers.base import Launcher


def make_launcher(name: str) -> Launcher:
    """The launcher called `name`, imported now. Raises `ConfigError` if there is none."""
    launcher: Launcher = LAUNCHERS.load(name)()
    return launcher
