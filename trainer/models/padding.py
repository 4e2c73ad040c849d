"""Padding: what a model's answers must not depend on."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from galley.schema import Dtype
from trainer.hosts.ranks import Ranks
from trainer.tasks.base import Task, TokenizedDataset

log = logging.getLogger("galley")

# Relative to a loss of at least 1: products of other shapes round otherwise.
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}


def agree_on_padding(model: Any, tokenizer: Any) -> None:
    """Give the model the tokenizer's padding token, by which decoders find the last token of a text.

    Not where positions are counted from the model's own padding token (RoBERTa): those models read the
    attention mask alone, and another token would move all positions.
    """
    if tokenizer.pad_token_id is None or counted_from_padding(model) is not None:
        return
    settings = model.config.get_text_config()
    if settings.pad_token_id != tokenizer.pad_token_id:
        log.info(
            "the padding token is the tokenizer's %d, not %s", tokenizer.pad_token_id, settings.pad_token_id
        )
        settings.pad_token_id = tokenizer.pad_token_id


def counted_from_padding(model: torch.nn.Module) -> int | None:
    """How many positions there are behind that of padding; None where padding has no position."""
    for name, module in model.named_modules():
        if "position" in name and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return None


@torch.no_grad()
def padding_matters(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, ranks: Ranks, compute: Dtype
) -> bool:
    """Whether the shortest sample's loss is another one beside the longest. A collective.

    So it is with models that mix all positions (FNet) or read the last one (XLNet), and with
    modules that ignore the attention mask. `compute` is the model's format.
    """
    shortest, longest = int(np.argmin(dataset.lengths)), int(np.argmax(dataset.lengths))
    if dataset.lengths[shortest] == dataset.lengths[longest]:
        return False
    was_training, task.step = model.training, None
    model.eval()
    alone, beside = (_loss(model, task, dataset, rows, ranks) for rows in ([shortest], [shortest, longest]))
    model.train(was_training)
    differs = abs(alone - beside) > TOLERANCE[compute] * max(1.0, abs(alone))
    found = bool(ranks.max_floats([float(differs)])[0])
    if found:
        log.info("padding changes the model's answers: evaluation batches hold samples of one length")
    return found


def _loss(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, rows: list[int], ranks: Ranks
) -> float:
    """Of the first row; the others only fill the batch."""
    batch = {name: tensor.to(ranks.device) for name, tensor in task.collate(dataset.rows(rows)).items()}
    weights = torch.zeros(len(rows), device=ranks.device)
    weights[0] = 1.0
    weight = float(task.weight(batch, weights))
    return float(task.loss(model, batch, weights)) / weight if weight else 0.0
