"""The model and its tokenizer: embedded, from a folder, or from the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from trainer.assets import is_embedded, model_folder
from trainer.cache import cache_root
from trainer.hub import hub_errors, quiet_transformers, use_cache_if_unreachable

log = logging.getLogger("galley")


@dataclass(frozen=True)
class Source:
    """What Transformers loads: a folder (`local`), or a name on the hub."""

    path: str
    local: bool


def find_source(recipe: Recipe) -> Source:
    """Where the recipe's model lies. Raises `ConfigError` for a folder that holds none."""
    name = recipe.model.name
    if is_embedded(name):
        return Source(str(model_folder(name, cache_root(recipe.data))), local=True)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ConfigError(Problem(f"model.name={name}", "is a folder without config.json"))
        return Source(str(folder), local=True)
    if name.startswith((".", "/", "~")):
        raise ConfigError(Problem(f"model.name={name}", "does not exist"))
    use_cache_if_unreachable()
    return Source(name, local=False)


def load_tokenizer(recipe: Recipe) -> Any:
    """The fast tokenizer of the model.

    Raises `ConfigError` where it has none, cannot pad, or `data.max_length` is more than the model reads.
    """
    with _loading(recipe) as path:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=recipe.model.trust_remote_code)
    where, limit = f"model.name={recipe.model.name}", tokenizer.model_max_length
    if not tokenizer.is_fast:
        raise ConfigError(Problem(where, "has no fast tokenizer (tokenizer.json)"))
    if tokenizer.pad_token_id is None:
        raise ConfigError(Problem(where, "its tokenizer has no padding token", "add pad_token to it"))
    if recipe.data.max_length > limit:
        what = f"{where} reads at most {limit} tokens"
        raise ConfigError(Problem(f"data.max_length={recipe.data.max_length}", what))
    return tokenizer


def load_classifier(recipe: Recipe, num_labels: int) -> torch.nn.Module:
    """A sequence classifier of `num_labels` classes; see `load_model`."""
    return load_model(
        recipe, "AutoModelForSequenceClassification", f"{num_labels} labels", num_labels=num_labels
    )


def load_model(recipe: Recipe, auto_class: str, head: str = "", **config: Any) -> torch.nn.Module:
    """The recipe's model as one of Transformers' auto classes, in fp32, on the CPU.

    `config` goes into the model's configuration; `head` says in a message what the task's head has.
    A head that the stored model lacks is drawn from the recipe's seed alone, so that every rank,
    and every run of this seed, starts from the same weights. Raises `ConfigError` where the stored
    head has another shape and `model.ignore_mismatched_head` is off, and where any other weight has.
    """
    options: dict[str, Any] = {"trust_remote_code": recipe.model.trust_remote_code, **config}
    if recipe.model.attn_implementation is not None:
        options["attn_implementation"] = recipe.model.attn_implementation
    with _loading(recipe) as path, torch.random.fork_rng(devices=[]):
        import transformers

        options |= _dropout_options(recipe, path)
        torch.manual_seed(recipe.seed)
        model, info = getattr(transformers, auto_class).from_pretrained(
            path, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    new = _check_weights(info, recipe, model.base_model_prefix, head)
    model.config.use_cache = False
    loaded: torch.nn.Module = model
    mark_new(loaded, new)
    return loaded


def _dropout_options(recipe: Recipe, path: str) -> dict[str, float]:
    """Every dropout probability that the model's configuration has, set to `model.dropout`."""
    if recipe.model.dropout is None:
        return {}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=recipe.model.trust_remote_code)
    names = [name for name, value in config.to_dict().items() if "drop" in name and _is_probability(value)]
    if not names and recipe.model.dropout > 0:
        where = f"model.dropout={recipe.model.dropout}"
        raise ConfigError(Problem(where, f"{config.model_type} has no dropout", "valid: 0, null"))
    return dict.fromkeys(names, recipe.model.dropout)


def _is_probability(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))


@contextmanager
def _loading(recipe: Recipe) -> Iterator[str]:
    """What to load; while it loads, only Galley reports about it."""
    source = find_source(recipe)
    with quiet_transformers(), hub_errors("model.name", recipe.model.name, source.local):
        yield source.path


def mark_new(model: torch.nn.Module, names: list[str]) -> None:
    """Remember which weights the stored model lacks."""
    model._galley_new = tuple(names)  # type: ignore[assignment]  # modules take any attribute


def new_modules(model: torch.nn.Module) -> list[str]:
    """Modules with weights that the stored model lacks: whoever loads it again would draw others."""
    names = getattr(model, "_galley_new", ())
    return sorted({name.rpartition(".")[0] for name in names if "." in name})


def _check_weights(info: dict[str, Any], recipe: Recipe, body: str, head: str) -> list[str]:
    """Names of the weights that are new.

    Weights of another shape may only be the head's, and only with the recipe's consent.
    """
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    wrong = [name for name in mismatched if name.startswith(f"{body}.")]
    where = f"model.name={recipe.model.name}"
    if wrong:
        raise ConfigError(Problem(where, f"its weights do not fit its config.json: {', '.join(wrong)}"))
    if mismatched and not recipe.model.ignore_mismatched_head:
        what = f"its head has not {head} ({', '.join(mismatched)})"
        raise ConfigError(Problem(where, what, "model.ignore_mismatched_head=true starts with a new head"))
    new = sorted({*mismatched, *map(str, info["missing_keys"])})
    if new:
        log.info("new weights, drawn from seed %d: %s", recipe.seed, ", ".join(new))
    return new
