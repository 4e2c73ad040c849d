"""The torch half of the task, which only the ranks import."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from trainer.tasks.base import TokenizedDataset
from trainer.tasks.sequence_classification import SequenceClassification


class ErrorRate(SequenceClassification):
    """Classification that reports the share of wrong answers as `eval/error`."""

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        measured = super().metrics(predictions, dataset)
        return {"error": 1 - measured["accuracy"], **measured}
