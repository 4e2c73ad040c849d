"""Load a stored model with the adapters of a finished run added to its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.model.adapters import base_of
from galley.schema import Recipe
from trainer.models.hub import quiet_transformers


def of_base(recipe: Recipe) -> Recipe:
    """Return the recipe of the base model alone. Its head may differ: the adapters bring their own."""
    model = replace(recipe.model, name=base_of(recipe.model.name), ignore_mismatched_head=True)
    return replace(recipe, model=model)


def with_stored_adapters(base: torch.nn.Module, folder: str, new: list[str]) -> torch.nn.Module:
    """Merge the adapters of `folder` into the weights of `base`. A skeleton has the right shapes already.

    `new`: the modules that the stored base lacks. Raises `ConfigError` if the folder lacks one of them.
    """
    from peft import PeftModel

    where = Path(folder).expanduser()
    kept = (
        json.loads((where / "adapter_config.json").read_text(encoding="utf-8")).get("modules_to_save") or []
    )
    lost = [name for name in new if not any(f".{name}".endswith(f".{module}") for module in kept)]
    if lost:
        what = f"its adapters lack {', '.join(lost)}, and so does their base"
        raise ConfigError(Problem(f"model.name={folder}", what, "choose the task that they were trained for"))
    if torch.get_default_device().type == "meta":
        return base
    model: Any = base
    with quiet_transformers():
        merged: torch.nn.Module = PeftModel.from_pretrained(model, str(where)).merge_and_unload()
    return merged
