"""A DistilBERT whose weights are those of some layers of a BERT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from galley.errors import ConfigError, Problem

log = logging.getLogger("galley")

KEY = "task.distillation.masked.layers"
# Module of the student -> module of the teacher; BERT's token types and pooler have no counterpart.
WHOLE = {
    "distilbert.embeddings.word_embeddings": "bert.embeddings.word_embeddings",
    "distilbert.embeddings.position_embeddings": "bert.embeddings.position_embeddings",
    "distilbert.embeddings.LayerNorm": "bert.embeddings.LayerNorm",
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector": "cls.predictions.decoder",
}
LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


@torch.no_grad()
def start_from_teacher(student: Any, teacher: Any, layers: Sequence[int]) -> None:
    """Copy embeddings, head and, for each layer of the student, the layer of the teacher in `layers`.

    Where the student has no numbers (`trainer.models.meta_init`) nothing is copied. Raises `ConfigError` for
    other architectures, another number of layers, or layers of other sizes.
    """
    _check(student, teacher, layers)
    names = dict(WHOLE)
    for own, theirs in enumerate(layers):
        names |= {
            f"distilbert.transformer.layer.{own}.{ours}": f"bert.encoder.layer.{theirs}.{other}"
            for ours, other in LAYER.items()
        }
    for ours, other in names.items():
        _copy(ours, student.get_submodule(ours), teacher.get_submodule(other))
    log.info("the student starts from the teacher's layers %s", ", ".join(map(str, layers)))


def _check(student: Any, teacher: Any, layers: Sequence[int]) -> None:
    kinds = student.config.model_type, teacher.config.model_type
    if kinds != ("distilbert", "bert"):
        what = f"is for a distilbert from a bert, not for {kinds[0]} from {kinds[1]}"
        raise ConfigError(Problem(KEY, what, f"{KEY}=null"))
    own, theirs = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    if len(layers) != own or max(layers) >= theirs:
        what = f"{list(layers)} for a student of {own} layers and a teacher of {theirs}"
        raise ConfigError(Problem(KEY, what, f"{own} numbers from 0 to {theirs - 1}"))


def _copy(name: str, own: torch.nn.Module, theirs: torch.nn.Module) -> None:
    stored = dict(theirs.named_parameters())
    for part, parameter in own.named_parameters():
        if parameter.shape != stored[part].shape:
            sizes = f"{tuple(stored[part].shape)} at the teacher, {tuple(parameter.shape)} at the student"
            raise ConfigError(Problem(KEY, f"{name}.{part} is {sizes}", "take equal sizes in model.config"))
        if not parameter.is_meta:
            parameter.copy_(stored[part])
