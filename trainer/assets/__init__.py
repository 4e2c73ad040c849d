"""Models and data that installed packages carry, named `embedded:NAME`: they need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galley.data.files import SplitName
from galley.errors import ConfigError, Problem, valid_values
from galley.registry import DATA, MODELS, TOKENIZERS, Registry
from galley.registry import EMBEDDED_PREFIX as PREFIX


def is_embedded(name: str) -> bool:
    """Return whether the name is that of an embedded model, tokenizer or set."""
    return name.startswith(PREFIX)


def model_folder(name: str, cache: Path) -> Path:
    """Return the Hugging Face folder of `embedded:NAME`; made in `cache` if it is a conversion."""
    folder: Path = _load(MODELS, name)(cache)
    return folder


def tokenizer_folder(name: str, cache: Path) -> Path:
    """Return the Hugging Face folder of the tokenizer `embedded:NAME`."""
    folder: Path = _load(TOKENIZERS, name)(cache)
    return folder


def data_rows(name: str, split: SplitName) -> list[dict[str, Any]]:
    """Return the rows of the embedded set `embedded:NAME`, which are the same on every machine."""
    rows: list[dict[str, Any]] = _load(DATA, name)(split)
    return rows


def _load(registry: Registry, name: str) -> Any:
    """Return the registered function. Raises `ConfigError`, with similar names, for an unknown one."""
    short = name.removeprefix(PREFIX)
    if short not in registry:
        where = f"{registry.key}={name}"
        raise ConfigError(Problem(where, "is not embedded", valid_values(short, registry)))
    return registry.load(short)
