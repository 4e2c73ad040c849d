"""One class for one sentence, or for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from galley.counting import counted
from galley.data.labels import CLASSES
from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from trainer.data.sources import Splits
from trainer.data.store import ArrowDataset
from trainer.tasks.base import Batch, Sample, TokenizedDataset
from trainer.tasks.sequence import SequenceTask


class SequenceClassification(SequenceTask):
    """Cross-entropy over the classes of the training split, weighted by class where the recipe says so."""

    labels = CLASSES

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.class_weights: torch.Tensor | None = None

    def learn_labels(self, splits: Splits) -> None:
        super().learn_labels(splits)
        wanted = self.recipe.task.classification.class_weights
        if wanted is not None:
            weights = (
                balanced_weights(splits.train.labels, self.num_labels) if wanted == "balanced" else wanted
            )
            if len(weights) != self.num_labels:
                what = f"has {counted(len(weights), 'weight')}, the data {counted(self.num_labels, 'class')}"
                raise ConfigError(Problem("task.classification.class_weights", what))
            self.class_weights = torch.tensor(weights, dtype=torch.float32)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`encoded`, and `labels` [samples]."""
        labels = torch.tensor([sample["label"] for sample in samples], dtype=torch.int64)
        return {**self.encoded(samples), "labels": labels}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(self.logits(model, batch), batch["labels"], reduction="none")
        return (losses * self._factors(batch, weights)).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return self._factors(batch, weights).sum()

    def _factors(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Of each sample's loss; the mean divides by their sum, as torch's weighted cross-entropy does."""
        if self.class_weights is None:
            return weights
        return weights * self.class_weights.to(weights.device)[batch["labels"]]

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `classification_metrics`."""
        return classification_metrics(predictions, _labels(dataset), self.num_labels)


def balanced_weights(labels: Sequence[int], num_labels: int) -> list[float]:
    """Samples ÷ (classes × samples of the class); 0 for a class without samples."""
    counts = np.bincount(np.asarray(labels), minlength=num_labels)
    return [len(labels) / (num_labels * count) if count else 0.0 for count in counts.tolist()]


def _labels(dataset: TokenizedDataset) -> NDArray[np.int64]:
    if isinstance(dataset, ArrowDataset):
        return dataset.labels
    return np.array([row["label"] for row in dataset.rows(range(len(dataset)))], dtype=np.int64)


def classification_metrics(
    logits: NDArray[Any], labels: NDArray[np.int64], num_labels: int
) -> dict[str, float]:
    """Logits [samples, classes] and labels [samples] -> `loss` (mean cross-entropy), `accuracy`, `f1`.

    For two classes `f1` is that of class 1, as GLUE reports it; for more it is the unweighted mean
    over all classes, which is then also called `f1_macro`. F1 of a class = 2·TP / (2·TP + FP + FN),
    and 0 where it neither occurs nor is predicted.
    """
    predicted = logits.argmax(axis=1)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    scores = [_f1(predicted == label, labels == label) for label in range(num_labels)]
    metrics = {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((predicted == labels).mean()),
    }
    if num_labels == 2:
        return {**metrics, "f1": scores[1]}
    macro = float(np.mean(scores))
    return {**metrics, "f1": macro, "f1_macro": macro}


def _f1(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> float:
    denominator = int(predicted.sum() + actual.sum())
    return 2.0 * int((predicted & actual).sum()) / denominator if denominator else 0.0
