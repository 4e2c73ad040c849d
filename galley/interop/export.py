"""A recipe's strategy written as an outside configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from galley.errors import ConfigError, Problem
from galley.interop.export_accelerate import accelerate_text, fsdp_text
from galley.interop.export_deepspeed import deepspeed_text
from galley.schema import Recipe

FORMATS: Mapping[str, Callable[[Recipe], tuple[str, list[Problem]]]] = {
    "deepspeed": deepspeed_text,
    "accelerate": accelerate_text,
    "fsdp": fsdp_text,
}
"""`deepspeed`: a DeepSpeed JSON; `accelerate`: an Accelerate YAML of the strategy's own engine; `fsdp`:
an Accelerate YAML of FSDP. An engine may be exchanged for another: ZeRO-3 is FSDP's full shard."""


def export_strategy(recipe: Recipe, file_format: str) -> str:
    """The file's text. Raises `ConfigError` that names everything the format has no word for."""
    text, problems = FORMATS[file_format](recipe)
    if problems:
        raise ConfigError(list(_told(problems, file_format)))
    return text


def _told(problems: list[Problem], file_format: str) -> Iterator[Problem]:
    for problem in problems:
        yield Problem(
            problem.where, f"cannot be written as --format {file_format}: {problem.what}", problem.hint
        )
