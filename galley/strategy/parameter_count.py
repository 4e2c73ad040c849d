"""The number of a model's parameters from its configuration, without torch and without its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from galley.model.causal_lm import FAMILIES, parameters_of
from galley.model.shape import model_type, new_vocabulary, num_parameters, stored_config
from galley.schema import Model, Recipe
from galley.tasks import task_of

Sizes = Mapping[str, int]
BERT = {
    "vocab_size": 30_522, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 30_522,
    "dim": 768,
    "n_layers": 6,
    "hidden_dim": 3072,
    "max_position_embeddings": 512,
}


def model_size(recipe: Recipe) -> int | None:
    """As the recipe or the model's folder says, else counted from its configuration; None if unknown.

    Counted without the head of a task, but for a language model's.
    """
    found = num_parameters(recipe.model)
    return found if found is not None else _counted(recipe.model, task_of(recipe).headed)


def _counted(model: Model, headed: bool) -> int | None:
    kind = model_type(model)
    if kind in FAMILIES:
        # A model from its configuration has about the stored vocabulary; a tokenizer's may be padded less.
        found = parameters_of(replace(model, from_config=False), headed)
        return None if found is None else found.num_elements
    if kind is None or kind not in ENCODERS:
        return None
    defaults, count = ENCODERS[kind]
    vocabulary = new_vocabulary(model) if model.architecture else stored_config(model).get("vocab_size")
    if vocabulary is None:
        return None
    return count({**defaults, **stored_config(model), "vocab_size": vocabulary, **model.config})


def _layers(number: int, hidden: int, inner: int) -> int:
    """Four projections, two of feed-forward, two norms, all with a bias."""
    return number * (4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden)


def _bert(config: Sizes) -> int:
    h = config["hidden_size"]
    rows = config["vocab_size"] + config["max_position_embeddings"] + config["type_vocab_size"]
    pooler = h * (h + 1)
    return rows * h + 2 * h + _layers(config["num_hidden_layers"], h, config["intermediate_size"]) + pooler


def _distilbert(config: Sizes) -> int:
    h = config["dim"]
    rows = config["vocab_size"] + config["max_position_embeddings"]
    return rows * h + 2 * h + _layers(config["n_layers"], h, config["hidden_dim"])


ENCODERS: Mapping[str, tuple[Sizes, Callable[[Sizes], int]]] = {
    "bert": (BERT, _bert),
    "roberta": ({**BERT, "vocab_size": 50_265}, _bert),
    "distilbert": (DISTILBERT, _distilbert),
}
"""Type of Transformers -> the defaults of its configuration, and the parameters of its base model."""
