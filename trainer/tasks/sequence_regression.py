"""A number for one sentence, or for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from galley.data.labels import NUMBERS
from trainer.data.store import ArrowDataset
from trainer.metrics.regression import regression_metrics
from trainer.tasks.base import Batch, Sample, TokenizedDataset
from trainer.tasks.sequence import SequenceTask


class SequenceRegression(SequenceTask):
    """Squared error of one output."""

    labels = NUMBERS
    problem_type = "regression"

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`encoded`, and `labels` [samples] in fp32."""
        labels = torch.tensor([sample["label"] for sample in samples], dtype=torch.float32)
        return {**self.encoded(samples), "labels": labels}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return ((self.logits(model, batch)[:, 0] - batch["labels"]) ** 2 * weights).sum()

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `regression_metrics`."""
        assert isinstance(dataset, ArrowDataset)  # noqa: S101
        return regression_metrics(predictions[:, 0], dataset.numbers("label"))
