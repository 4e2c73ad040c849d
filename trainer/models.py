"""The model and its tokenizer: embedded, from a folder, or from the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from trainer.assets import is_embedded, model_folder
from trainer.cache import cache_root
from trainer.hub import hub_errors, use_cache_if_unreachable

log = logging.getLogger("galley")


def source(recipe: Recipe) -> str:
    """What Transformers loads: a folder, or a name on the hub."""
    name = recipe.model.name
    if is_embedded(name):
        return str(model_folder(name, cache_root(recipe.data)))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ConfigError(Problem(f"model.name={name}", "is a folder without config.json"))
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise ConfigError(Problem(f"model.name={name}", "does not exist"))
    use_cache_if_unreachable()
    return name


def load_tokenizer(recipe: Recipe) -> Any:
    """The fast tokenizer of the model."""
    name = source(recipe)
    from transformers import AutoTokenizer

    with hub_errors("model.name", recipe.model.name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=recipe.model.trust_remote_code)


def load_classifier(recipe: Recipe, num_labels: int) -> torch.nn.Module:
    """A sequence classifier of `num_labels` classes in fp32, on the CPU.

    A head that the stored model lacks is drawn from the recipe's seed alone, so that every rank,
    and every run of this seed, starts from the same weights. Raises `ConfigError` where the stored
    head has another shape and `model.ignore_mismatched_head` is off.
    """
    from transformers import AutoModelForSequenceClassification

    name, model = source(recipe), recipe.model
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.attn_implementation is not None:
        options["attn_implementation"] = model.attn_implementation
    with torch.random.fork_rng(devices=[]), hub_errors("model.name", model.name):
        torch.manual_seed(recipe.seed)
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            num_labels=num_labels,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    _check_head(info, recipe, num_labels)
    loaded.config.use_cache = False
    result: torch.nn.Module = loaded
    return result


def _check_head(info: dict[str, Any], recipe: Recipe, num_labels: int) -> None:
    mismatched = [str(entry[0]) for entry in info.get("mismatched_keys", ())]
    if mismatched and not recipe.model.ignore_mismatched_head:
        what = f"its stored head does not have {num_labels} labels ({', '.join(mismatched)})"
        hint = "model.ignore_mismatched_head=true starts with a new head"
        raise ConfigError(Problem(f"model.name={recipe.model.name}", what, hint))
    new = sorted({*mismatched, *map(str, info.get("missing_keys", ()))})
    if new:
        log.info("new weights, drawn from seed %d: %s", recipe.seed, ", ".join(new))
