"""Sizes of a model that do not fit each other or the data, read from its configuration before the launch.

The worker checks every model when it has made it; here are the kinds of which the configuration tells all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from galley.errors import Problem
from galley.model.shape import model_type, stored_config
from galley.schema import Model, Recipe

Config = Mapping[str, Any]

# Positions begin behind the number of the padding token.
_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
_COUNTED = frozenset(
    {"bert", "distilbert", "electra", "albert", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"}
)
# Kinds whose heads share the hidden size in equal parts: key of the size, key of the heads.
_SHARED_BY_HEADS = {
    "bert": ("hidden_size", "num_attention_heads"),
    "roberta": ("hidden_size", "num_attention_heads"),
    "electra": ("hidden_size", "num_attention_heads"),
    "deberta-v2": ("hidden_size", "num_attention_heads"),
    "gpt_neox": ("hidden_size", "num_attention_heads"),
    "distilbert": ("dim", "n_heads"),
    "gpt2": ("n_embd", "n_head"),
}
_EMBEDDED_POSITIONS = {"embedded:minilm": 512}


def size_problems(recipe: Recipe) -> Iterator[Problem]:
    """More tokens than positions, and heads that do not divide the hidden size."""
    limit, length = num_positions(recipe.model), recipe.data.max_length
    if limit is not None and length > limit:
        kind = model_type(recipe.model) or recipe.model.name
        yield Problem("data.max_length", f"{kind} has positions for {limit} tokens", f"at most {limit}")
    yield from _heads(recipe.model)


def num_positions(model: Model) -> int | None:
    """Tokens that the model can tell apart by their places; None where the configuration does not tell."""
    kind, config = model_type(model), _config(model)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if limit is None and not model.config:
        limit = _EMBEDDED_POSITIONS.get(model.name) if model.architecture is None else None
    if kind in _BEHIND_PADDING and limit is not None and "pad_token_id" in config:
        return int(limit) - int(config["pad_token_id"]) - 1
    return int(limit) if kind in _COUNTED and limit is not None else None


def _heads(model: Model) -> Iterator[Problem]:
    kind, config = model_type(model), _config(model)
    size, heads = _SHARED_BY_HEADS.get(kind or "", ("", ""))
    if config.get(size) and config.get(heads) and config[size] % config[heads]:
        what = f"{size} {config[size]} is not a multiple of {heads} {config[heads]}"
        key = f"model.config.{heads if heads in model.config else size}"
        yield Problem(key if model.config else "model.name", what, "each head has an equal part of it")


def _config(model: Model) -> dict[str, Any]:
    """The stored values with the recipe's over them; the defaults of a kind are not known here."""
    return {**stored_config(model), **model.config}
