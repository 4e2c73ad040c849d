"""Any number of classes for one sentence, or for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from galley.data.labels import CLASS_SETS
from trainer.tasks.base import Batch, Sample, TokenizedDataset
from trainer.tasks.sequence import SequenceTask


class MultiLabelClassification(SequenceTask):
    """Binary cross-entropy of every class, averaged over the classes."""

    labels = CLASS_SETS
    problem_type = "multi_label_classification"

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`encoded`, and `labels` [samples, classes]: 1.0 for the classes a sample has."""
        return {**self.encoded(samples), "labels": torch.from_numpy(self._hot(samples))}

    def _hot(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        hot = np.zeros((len(samples), self.num_labels), dtype=np.float32)
        for row, sample in enumerate(samples):
            hot[row, sample["label"]] = 1.0
        return hot

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        logits = self.logits(model, batch)
        losses = binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none")
        return (losses.mean(1) * weights).sum()

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `multi_label_metrics`."""
        return multi_label_metrics(predictions > 0, self._hot(dataset.rows(range(len(dataset)))) > 0)


def multi_label_metrics(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> dict[str, float]:
    """Two arrays [samples, classes].

    `f1` over all (sample, class) pairs together (micro), `f1_macro` the mean of the classes' F1 (0 for a
    class that neither occurs nor is predicted), `accuracy` the share of samples whose classes are all
    right.
    """
    right, counted = (predicted & actual).sum(0), predicted.sum(0) + actual.sum(0)
    by_class = np.divide(2.0 * right, counted, out=np.zeros(len(right)), where=counted > 0)
    return {
        "f1": float(2.0 * right.sum() / counted.sum()) if counted.sum() else 0.0,
        "f1_macro": float(by_class.mean()),
        "accuracy": float((predicted == actual).all(1).mean()),
    }
