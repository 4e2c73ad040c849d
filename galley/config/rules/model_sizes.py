"""Sizes of a model that do not fit each other or the data, read from its configuration before the launch.

The worker checks every model when it has made it; here are the kinds of which the configuration tells all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from galley.counting import counted
from galley.errors import Problem
from galley.model.shape import model_type, stored_config
from galley.registry import EMBEDDED_PREFIX
from galley.schema import Model, Recipe

Config = Mapping[str, Any]

# Positions begin behind the number of the padding token.
_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
_COUNTED = frozenset(
    {"bert", "distilbert", "electra", "albert", "deberta-v2", "gpt2", "gpt_neox", "llama", "mistral", "qwen2",
     "qwen3"}
)  # fmt: skip
# Kinds whose heads share the hidden size in equal parts: key of the size, key of the heads.
_SHARED_BY_HEADS = {
    "bert": ("hidden_size", "num_attention_heads"),
    "roberta": ("hidden_size", "num_attention_heads"),
    "electra": ("hidden_size", "num_attention_heads"),
    "albert": ("hidden_size", "num_attention_heads"),
    "deberta-v2": ("hidden_size", "num_attention_heads"),
    "gpt_neox": ("hidden_size", "num_attention_heads"),
    "llama": ("hidden_size", "num_attention_heads"),
    "distilbert": ("dim", "n_heads"),
    "gpt2": ("n_embd", "n_head"),
}


def _sizes(positions: int, hidden: int, heads: int, **others: int) -> Config:
    return {
        "max_position_embeddings": positions, "hidden_size": hidden, "num_attention_heads": heads, **others
    }  # fmt: skip


# Type of Transformers -> the defaults of its configuration, which a stored one may leave out.
DEFAULTS: Mapping[str, Config] = {
    "bert": _sizes(512, 768, 12),
    "roberta": _sizes(512, 768, 12, pad_token_id=1),
    "xlm-roberta": _sizes(512, 768, 12, pad_token_id=1),
    "camembert": _sizes(512, 768, 12, pad_token_id=1),
    "distilbert": {"max_position_embeddings": 512, "dim": 768, "n_heads": 12},
    "electra": _sizes(512, 256, 4),
    "albert": _sizes(512, 4096, 64),
    "deberta-v2": _sizes(512, 1536, 24),
    "gpt2": {"n_positions": 1024, "n_embd": 768, "n_head": 12},
    "gpt_neox": _sizes(2048, 6144, 64),
    "llama": _sizes(2048, 4096, 32),
    "mistral": _sizes(131_072, 4096, 32),
    "qwen2": _sizes(32_768, 4096, 32),
    "qwen3": _sizes(32_768, 4096, 32),
}
# As in the config.json that an embedded model has in the worker.
EMBEDDED_SIZES: Mapping[str, Config] = {
    "embedded:minilm": _sizes(512, 384, 12),
    "embedded:deberta_minilm": _sizes(512, 384, 12),
    "embedded:smollm2": _sizes(8192, 576, 9),
}


def size_problems(recipe: Recipe) -> Iterator[Problem]:
    """More tokens than positions, and heads that do not divide the hidden size."""
    limit, length = num_positions(recipe.model), recipe.data.max_length
    if limit is not None and length > limit:
        kind = model_type(recipe.model) or recipe.model.name
        what = f"{kind} has positions for {counted(limit, 'token')}"
        yield Problem("data.max_length", what, f"at most {limit}")
    yield from _heads(recipe.model)


def num_positions(model: Model) -> int | None:
    """Return how many tokens the model can tell apart by position; None if its kind is not known here."""
    kind, config = model_type(model), _config(model)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if limit is None:
        return None
    if kind in _BEHIND_PADDING:
        return int(limit) - _padding(model, config) - 1
    # DeBERTa may have distances alone.
    return int(limit) if kind in _COUNTED and config.get("position_biased_input", True) else None


def _padding(model: Model, config: Config) -> int:
    """The padding token. A new model takes that of its tokenizer, which is 0 in those of Galley."""
    is_new = model.architecture is not None or model.from_config
    tokenizer = model.tokenizer or model.name
    own = tokenizer.startswith(EMBEDDED_PREFIX) or tokenizer in ("bpe", "characters")
    return 0 if is_new and own else int(config["pad_token_id"] or 0)


def _heads(model: Model) -> Iterator[Problem]:
    kind, config = model_type(model), _config(model)
    size, heads = _SHARED_BY_HEADS.get(kind or "", ("", ""))
    if config.get(size) and config.get(heads) and config[size] % config[heads]:
        what = f"{size} {config[size]} is not a multiple of {heads} {config[heads]}"
        key = f"model.config.{heads if heads in model.config else size}"
        yield Problem(key if model.config else "model.name", what, "each head has an equal part of it")


def _config(model: Model) -> dict[str, Any]:
    """The recipe's values over the stored ones, over the defaults of the kind; empty for an unknown kind."""
    embedded = EMBEDDED_SIZES.get(model.name, {}) if model.architecture is None else {}
    defaults = DEFAULTS.get(model_type(model) or "", {})
    return {**defaults, **stored_config(model), **embedded, **model.config}
