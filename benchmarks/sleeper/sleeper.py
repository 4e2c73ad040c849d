"""A task that takes as long as its seed says: for measuring how slots are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset


class OneSample:
    """A dataset of one sample."""

    fingerprint = "0" * 64
    lengths = np.ones(1, np.int32)

    def __len__(self) -> int:
        return 1

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        return [{} for _ in indices]


class Sleeper(Task):
    """One step, of `seed` milliseconds."""

    def datasets(self, main_first: MainFirst) -> Datasets:
        return Datasets(OneSample(), None)

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return {"x": torch.ones(len(samples), 1)}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        time.sleep(self.recipe.seed / 1000)
        loss: torch.Tensor = (model(batch["x"]).squeeze(1) * weights).sum()
        return loss

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch["x"]))

    def metrics(self, predictions: np.ndarray[Any, Any], dataset: TokenizedDataset) -> dict[str, float]:
        return {}

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        return
