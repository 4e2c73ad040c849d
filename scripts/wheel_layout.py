"""A hook of hatchling: lays the program out in the wheel. pyproject.toml lists what belongs to it."""

from __future__ import annotations

from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelLayout(BuildHookInterface[BuilderConfig]):
    """Puts the program into `galley/_program`, where galley/__init__.py looks for it.

    An editable installation is only a path to the checkout. With `force-include` in pyproject.toml hatchling
    would copy the program there, too, and the copy would hide the checkout.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        files = {name: f"galley/_program/{name}" for name in self.config["program"]}
        build_data["force_include"] |= {"galley/__init__.py": "galley/__init__.py", **files}
