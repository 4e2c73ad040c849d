"""Padding: a model's predictions must not depend on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from galley.schema import Dtype
from trainer.hosts.ranks import Ranks
from trainer.tasks.base import Batch, Task, TokenizedDataset

log = logging.getLogger("galley")

Compare = Callable[[torch.nn.Module, Task, TokenizedDataset, Ranks], tuple[torch.Tensor, torch.Tensor] | None]
# Relative to a loss or an embedding of length at least 1: products of other shapes round differently.
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}


def agree_on_padding(model: Any, tokenizer: Any) -> None:
    """Give the model the tokenizer's padding token, by which decoders find the last token of a text.

    Not if positions are counted from the model's own padding token (RoBERTa): those models read only the
    attention mask, and another token would shift all positions.
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
    """Return how many positions follow the padding's; None if padding has no position."""
    for name, module in model.named_modules():
        if "position" in name and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return None


@torch.no_grad()
def padding_matters(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, ranks: Ranks, compute: Dtype
) -> bool:
    """Return whether the answer for the shortest sample with a target changes beside the longest one. A
    collective.

    It does with models that mix all positions (FNet) or read the last one (XLNet), and with
    modules that ignore the attention mask. `compute` is the model's format.
    """
    was_training = model.training
    task.step = None
    model.eval()
    compare: Compare = _predictions if task.splits_by_length else _losses
    answers = compare(model, task, dataset, ranks)
    model.train(was_training)
    differs = answers is not None and _differ(*answers, TOLERANCE[compute])
    matters = bool(ranks.max_floats([float(differs)])[0])
    if matters:
        apart = "runs texts" if task.splits_by_length else "batches hold samples"
        log.info("padding changes the model's answers: evaluation %s of one length", apart)
    return matters


def _losses(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the loss of the shortest sample alone and beside the longest.

    None if no such sample is padded.
    """
    shortest, longest = _shortest_with_target(task, dataset), int(np.argmax(dataset.lengths))
    if shortest is None or dataset.lengths[shortest] == dataset.lengths[longest]:
        return None
    alone, beside = (_loss(model, task, dataset, rows, ranks) for rows in ([shortest], [shortest, longest]))
    return alone, beside


def _shortest_with_target(task: Task, dataset: TokenizedDataset) -> int | None:
    """Return the shortest sample that has a target; None if no sample shorter than the longest has one.

    Without a target, such as in a short text of which no token is masked, the loss is 0 for any model.
    """
    lengths = dataset.lengths
    for row in np.argsort(lengths, kind="stable").tolist():
        if lengths[row] == lengths.max():
            break
        if float(task.weight(task.collate(dataset.rows([row])), torch.ones(1))) > 0:
            return int(row)
    return None


def _loss(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, rows: list[int], ranks: Ranks
) -> torch.Tensor:
    """Return the loss of the first row, [1]; the others only fill the batch."""
    batch = _batch(task, dataset, rows, ranks)
    weights = torch.zeros(len(rows), device=ranks.device)
    weights[0] = 1.0
    return (task.loss(model, batch, weights) / task.weight(batch, weights)).reshape(1)


def _predictions(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the predictions of the shortest and the longest sample.

    First with texts of each length apart, then padded to the longest one.
    """
    rows = [int(np.argmin(dataset.lengths)), int(np.argmax(dataset.lengths))]
    batch = _batch(task, dataset, rows, ranks)
    task.unpadded = True
    alone = task.predict(model, batch).float()
    task.unpadded = False
    return alone, task.predict(model, batch).float()


def _batch(task: Task, dataset: TokenizedDataset, rows: list[int], ranks: Ranks) -> Batch:
    return {name: tensor.to(ranks.device) for name, tensor in task.collate(dataset.rows(rows)).items()}


def _differ(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Return whether some row (the last axis) is further from its counterpart than rounding explains."""
    distance = torch.linalg.vector_norm(one - other, dim=-1)
    size = torch.linalg.vector_norm(one, dim=-1).clamp(min=1.0)
    return bool((distance > tolerance * size).any())
