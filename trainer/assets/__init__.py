"""Models and data that installed packages carry, named `embedded:NAME`: they need no network."""

from __future__ import annotations

from pathlib import Path

from galley.errors import ConfigError, Problem, valid_values

PREFIX = "embedded:"
MODELS = ("minilm", "deberta_minilm")
DATA = ("pydoc_pairs",)


def is_embedded(name: str) -> bool:
    return name.startswith(PREFIX)


def model_folder(name: str, cache: Path) -> Path:
    """The Hugging Face folder of `embedded:NAME`; made in `cache` where it is a conversion."""
    match name.removeprefix(PREFIX):
        case "minilm":
            from trainer.assets.minilm import folder

            return folder()
        case "deberta_minilm":
            from trainer.assets.deberta_minilm import folder as converted

            return converted(cache)
        case other:
            raise ConfigError(Problem(f"model.name={name}", "is not embedded", valid_values(other, MODELS)))
