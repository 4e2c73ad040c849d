"""One class for one sentence, or for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galley.schema import Recipe
from trainer.cache import cache_root
from trainer.data.sources import read_splits
from trainer.data.store import ArrowDataset
from trainer.data.tokenized import tokenized
from trainer.hub import quiet_transformers
from trainer.models import load_classifier, load_tokenizer
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset


class SequenceClassification(Task):
    """Cross-entropy over the classes of the training split."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.num_labels = 0
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.recipe)
        return self._tokenizer

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            splits = read_splits(data)
            self.num_labels = splits.num_labels
            train = tokenized(splits.train, self.tokenizer, data.max_length, cache)
            held_out = None
            if self.recipe.eval.enabled:
                held_out = tokenized(splits.eval, self.tokenizer, data.max_length, cache)
        return Datasets(train, held_out)

    def model(self) -> torch.nn.Module:
        assert self.num_labels, "datasets() comes first: it counts the classes"  # noqa: S101
        return load_classifier(self.recipe, self.num_labels)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`input_ids`, `token_type_ids`, `attention_mask` [samples, longest], `labels` [samples]."""
        shape = (len(samples), max(len(sample["input_ids"]) for sample in samples))
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        types, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            ids[row, :length] = sample["input_ids"]
            types[row, :length] = sample["token_type_ids"]
            mask[row, :length] = 1
        labels = np.fromiter((sample["label"] for sample in samples), np.int64, len(samples))
        arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(
            self._logits(model, batch), batch["labels"], reduction="none"
        )
        return (losses * weights).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [samples, classes] in fp32."""
        return self._logits(model, batch).detach()

    def _logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in self._input_names() if name in batch}
        logits: torch.Tensor = model(**inputs).logits
        return logits.float()

    def _input_names(self) -> tuple[str, ...]:
        """Models without segments (RoBERTa, DistilBERT) do not take `token_type_ids`."""
        names = ("input_ids", "attention_mask")
        return (*names, "token_type_ids") if "token_type_ids" in self.tokenizer.model_input_names else names

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `classification_metrics`."""
        labels = _labels(dataset)
        return classification_metrics(predictions, labels, self.num_labels)

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # a Transformers model
            self.tokenizer.save_pretrained(folder)


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
