"""Sentence embeddings: a text is nearer to its own partner than to those of the other samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, normalize

from galley.data.roles import needed
from galley.schema import Recipe
from galley.tasks.contrastive import ROLES
from trainer.data.cache import cache_root
from trainer.data.raw import read_tables
from trainer.data.tokenize.text_pairs import text_pairs
from trainer.hosts.collectives import gather_rows
from trainer.metrics.retrieval import retrieval_metrics
from trainer.models.build import load_model
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, TokenizedDataset
from trainer.tasks.text import TextTask, padded

OUT_OF_BATCH = -1e9
"""The similarity of padding: below every other, and finite, so that its weight of 0 makes it vanish."""


class Contrastive(TextTask):
    """Cross-entropy of the right partner among all partners of the batch (InfoNCE, arXiv:1807.03748,
    eq. 4), over cosines × `task.contrastive.scale`.

    In training the batch is that of all ranks: their micro-batches of one round. In evaluation it is
    one batch of `eval.batch_size`, whatever the number of ranks. Hard negatives of all its samples are
    further candidates of every text.
    """

    # A batch of one length would leave a text few candidates, or none.
    splits_by_length = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.texts = 2  # of a sample; all ranks collate alike, also samples without a hard negative

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            tables = read_tables(data, ROLES, needed(self.recipe))
            self.texts = 3 if any("negative" in table.columns for table in tables.values()) else 2
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
        """`input_ids`, `attention_mask` [samples, texts, longest]: a text, its partner and, where the data
        have any, a hard negative; `given` [samples, texts] is 0 where a sample has none.
        """
        rows = [texts for sample in samples for texts in self._texts(sample)]
        ids = padded(rows, self.tokenizer.pad_token_id)
        mask = padded([np.ones(len(row), dtype=np.int64) for row in rows], 0)
        given = torch.tensor([_count(sample) for sample in samples])[:, None] > torch.arange(self.texts)
        shape = (len(samples), self.texts, -1)
        return {
            "input_ids": ids.reshape(shape), "attention_mask": mask.reshape(shape), "given": given.long()
        }  # fmt: skip

    def _texts(self, sample: Sample) -> list[NDArray[Any]]:
        """The texts of a sample; its first one in place of a negative that it has not."""
        ends = np.cumsum([sample["first_length"], sample["second_length"]])
        texts = np.split(sample["input_ids"], ends)
        return [text if len(text) else texts[0] for text in texts[: self.texts]]

    def embeddings(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples, texts, width] in fp32, each of length 1: the mean over the tokens."""
        flat = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
        mean = self._means_by_length(model, flat) if self.unpadded else self._means(model, flat)
        return normalize(mean, dim=-1).reshape(*batch["given"].shape, -1)

    def _means(self, model: torch.nn.Module, flat: Batch) -> torch.Tensor:
        """[texts, width] in fp32: the mean of the last hidden states over the tokens of each text."""
        hidden: torch.Tensor = model(**self.inputs(flat)).last_hidden_state.float()
        mask = flat["attention_mask"].unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1)

    def _means_by_length(self, model: torch.nn.Module, flat: Batch) -> torch.Tensor:
        """As `_means`, one forward for each length of text, so that none is padded. A collective.

        All ranks run as many forwards as the one with the most lengths: the forward of a partitioned model
        is itself a collective.
        """
        lengths = flat["attention_mask"].sum(1)
        sizes: list[int] = lengths.unique().tolist()  # type: ignore[no-untyped-call]
        most = len(sizes) if self.ranks is None else int(self.ranks.max_floats([float(len(sizes))])[0])
        rows, means = list[torch.Tensor](), list[torch.Tensor]()
        for number in range(most):
            size = sizes[number % len(sizes)]
            rows.append((lengths == size).nonzero().flatten())
            means.append(self._means(model, {name: tensor[rows[-1], :size] for name, tensor in flat.items()}))
        order = torch.cat(rows[: len(sizes)]).argsort()
        return torch.cat(means[: len(sizes)])[order]

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        own = self.embeddings(model, batch)
        others, counts, first = own[:, 1:], batch["given"][:, 1:] * weights[:, None], 0
        if self.step is not None:
            others, counts, first = self._of_all_ranks(others, counts)
        candidates = others.transpose(0, 1).flatten(0, 1)  # all partners, then all hard negatives
        scores = self.recipe.task.contrastive.scale * own[:, 0] @ candidates.T
        scores = scores.masked_fill(counts.T.flatten() == 0, OUT_OF_BATCH)
        right = torch.arange(first, first + len(own), device=scores.device)
        return (cross_entropy(scores, right, reduction="none") * weights).sum()

    def _of_all_ranks(
        self, own: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Candidates and their weights [samples, texts - 1] of all ranks, and where this rank's begin."""
        assert self.ranks is not None, "training happens in a run"  # noqa: S101
        rank = torch.full_like(counts[:, :1], self.ranks.rank)
        gathered = gather_rows(torch.cat([counts, rank], dim=1))
        return gather_rows(own), gathered[:, :-1], int((gathered[:, -1] < self.ranks.rank).sum())

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """`embeddings`."""
        return self.embeddings(model, batch).detach()

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `retrieval_metrics`: every text looks for its partner in the whole split."""
        return retrieval_metrics(predictions[:, 0], predictions[:, 1])


def _count(sample: Sample) -> int:
    """Texts that the sample has."""
    return 3 if len(sample["input_ids"]) > sample["first_length"] + sample["second_length"] else 2
