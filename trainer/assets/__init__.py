"""Models and data that installed packages carry, named `embedded:NAME`: they need no network."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from galley.data.files import SplitName
from galley.errors import ConfigError, Problem, valid_values

PREFIX = "embedded:"
MODELS = ("minilm", "deberta_minilm", "smollm2")
TOKENIZERS = (*MODELS, "gpt2_bpe")
# Each gives the rows of a split as {column: value}, in a fixed order.
DATA = {
    "pydoc_pairs": "trainer.assets.pydoc_pairs:rows",
    "pydoc_triplets": "trainer.assets.pydoc_pairs:triplets",
    "pydoc_neighbors": "trainer.assets.pydoc_pairs:neighbors",
    "pydoc_qa": "trainer.assets.pydoc_qa:questions",
    "pydoc_text": "trainer.assets.pydoc_text:rows",
    "pydoc_dialogue": "trainer.assets.pydoc_dialogue:rows",
}


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
        case "smollm2":
            from trainer.assets.smollm2 import folder as read_from_gguf

            return read_from_gguf(cache)
        case other:
            raise ConfigError(Problem(f"model.name={name}", "is not embedded", valid_values(other, MODELS)))


def tokenizer_folder(name: str, cache: Path) -> Path:
    """The Hugging Face folder of the tokenizer `embedded:NAME`."""
    short = name.removeprefix(PREFIX)
    if short == "gpt2_bpe":
        from trainer.assets.gpt2_bpe import folder

        return folder(cache)
    if short not in TOKENIZERS:
        where = f"model.tokenizer={name}"
        raise ConfigError(Problem(where, "is not embedded", valid_values(short, TOKENIZERS)))
    return model_folder(name, cache)


def data_rows(name: str, split: SplitName) -> list[dict[str, Any]]:
    """The rows of the embedded set `embedded:NAME`, which are the same on every machine."""
    short = name.removeprefix(PREFIX)
    if short not in DATA:
        raise ConfigError(Problem(f"data.name={name}", "is not embedded", valid_values(short, DATA)))
    module, function = DATA[short].split(":")
    rows: list[dict[str, Any]] = getattr(import_module(module), function)(split)
    return rows
