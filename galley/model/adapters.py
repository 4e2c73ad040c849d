"""Folders that hold adapters alone (LoRA), as PEFT writes them. Without torch."""

from __future__ import annotations

import json
from pathlib import Path

from galley.errors import ConfigError, Problem


def holds_adapters(name: str) -> bool:
    """Whether `name` is a folder with adapters and no model of its own."""
    folder = Path(name).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(name: str) -> str:
    """The model that the adapters of the folder `name` were trained beside; `name` for any other.

    Raises `ConfigError` where the folder does not say.
    """
    if not holds_adapters(name):
        return name
    file = Path(name).expanduser() / "adapter_config.json"
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        hint = "name it there: base_model_name_or_path"
        raise ConfigError(Problem(str(file), "does not say which model its adapters belong to", hint))
    return str(base)
