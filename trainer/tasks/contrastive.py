"""Sentence embeddings: a text is nearer to its own partner than to those of the other samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, normalize

from galley.tables import ROLES, needed
from trainer.cache import cache_root
from trainer.collectives import gather_rows
from trainer.data.raw import read_tables
from trainer.data.text_pairs import text_pairs
from trainer.metrics.retrieval import retrieval_metrics
from trainer.models import load_model
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, TokenizedDataset
from trainer.tasks.text import TextTask, padded

OUT_OF_BATCH = -1e9
"""The similarity of padding: below every other, and finite, so that its weight of 0 makes it vanish."""


class Contrastive(TextTask):
    """Cross-entropy of the right partner among all partners of the batch (InfoNCE, arXiv:1807.03748,
    eq. 4), over cosines × `task.contrastive.scale`.

    In training the batch is that of all ranks: their micro-batches of one round. In evaluation it is
    one batch of `eval.batch_size`, whatever the number of ranks.
    """

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            tables = read_tables(data, ROLES["contrastive"], needed(self.recipe))
            held_out = None
            if self.recipe.eval.enabled:
                held_out = text_pairs(tables["eval"], self.tokenizer, data.max_length, cache)
            if self.recipe.eval.only and held_out is not None:
                return Datasets(held_out, held_out)
            train = text_pairs(tables["train"], self.tokenizer, data.max_length, cache)
        return Datasets(train, held_out)

    def model(self) -> torch.nn.Module:
        """The encoder; its pooler, which no embedding uses, is kept as it is."""
        model = load_model(self.recipe, "AutoModel", tokenizer=self.tokenizer)
        pooler = getattr(model, "pooler", None)
        if isinstance(pooler, torch.nn.Module):
            pooler.requires_grad_(False)
        return model

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`input_ids`, `attention_mask` [samples, 2, longest]: a text and its partner."""
        halves = [
            half
            for sample in samples
            for half in np.split(sample["input_ids"], [sample["first_length"]])
        ]  # fmt: skip
        ids = padded(halves, self.tokenizer.pad_token_id)
        mask = padded([np.ones(len(half), dtype=np.int64) for half in halves], 0)
        return {"input_ids": _in_pairs(ids), "attention_mask": _in_pairs(mask)}

    def embeddings(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples, 2, width] in fp32, each of length 1: the mean over the tokens."""
        flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items()}
        hidden = model(**self.inputs(flat)).last_hidden_state.float()
        mask = flat["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return _in_pairs(normalize(mean, dim=-1))

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        own = self.embeddings(model, batch)
        if self.step is None:
            partners, counts, first = own[:, 1], weights, 0
        else:
            partners, counts, first = self._of_all_ranks(own[:, 1], weights)
        scores = self.recipe.task.contrastive.scale * own[:, 0] @ partners.T
        scores = scores.masked_fill(counts == 0, OUT_OF_BATCH)
        right = torch.arange(first, first + len(own), device=scores.device)
        return (cross_entropy(scores, right, reduction="none") * weights).sum()

    def _of_all_ranks(
        self, own: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Partners and weights of all ranks, and where this rank's begin."""
        assert self.ranks is not None, "training happens in a run"  # noqa: S101
        rank = torch.full_like(weights, self.ranks.rank)
        counts = gather_rows(torch.stack([weights, rank], dim=1))
        return gather_rows(own), counts[:, 0], int((counts[:, 1] < self.ranks.rank).sum())

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """`embeddings`."""
        return self.embeddings(model, batch).detach()

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `retrieval_metrics`: every text looks for its partner in the whole split."""
        return retrieval_metrics(predictions[:, 0], predictions[:, 1])


def _in_pairs(rows: torch.Tensor) -> torch.Tensor:
    """[2 · samples, …] -> [samples, 2, …]."""
    return rows.reshape(-1, 2, *rows.shape[1:])
