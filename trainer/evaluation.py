"""Evaluation over exactly the dataset, with the same numbers on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.batches import eval_batches
from trainer.ranks import Ranks
from trainer.tasks.base import Batch, Task, TokenizedDataset


class OneForward(torch.nn.Module):
    """Answers a second call with the very same tensors from the first one's output.

    `Task.loss` and `Task.predict` each run the model; evaluation needs both of one batch.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._run: Callable[..., Any] = model
        self._inputs: dict[str, Any] = {}
        self._output: Any = None
        self.config = getattr(model, "config", None)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        inputs |= {f"#{position}": value for position, value in enumerate(args)}
        same = inputs.keys() == self._inputs.keys() and all(inputs[k] is self._inputs[k] for k in inputs)
        if not (same and inputs):
            named = {name: value for name, value in inputs.items() if not name.startswith("#")}
            self._output = self._run(*args, **named)
            self._inputs = inputs
        return self._output


def evaluate(
    model: torch.nn.Module, task: Task, dataset: TokenizedDataset, batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """`eval/…` metrics on every rank, `eval/loss` among them. A collective.

    Batches do not depend on the number of ranks; rank r takes batches r, r + R, …; a rank that has
    none left in the last round repeats batch 0 and throws it away, because the forward of a
    partitioned model is itself a collective.
    """
    batches = eval_batches(dataset.lengths, batch_size)
    losses = torch.zeros(len(batches), 2, dtype=torch.float64)
    predictions = torch.empty(0)
    was_training = model.training
    forward = OneForward(model).eval()
    with torch.no_grad():
        for start in range(0, len(batches), ranks.world_size):
            own = start + ranks.rank
            samples = batches[own if own < len(batches) else 0]
            batch, weights = _to_device(task.collate(dataset.rows(samples.tolist())), len(samples), ranks)
            predicted = task.predict(forward, batch).cpu()
            loss, weight = task.loss(forward, batch, weights), task.weight(batch, weights)
            if start == 0:
                predictions = torch.zeros(len(dataset), *predicted.shape[1:], dtype=_wide(predicted))
            if own < len(batches):
                predictions[torch.from_numpy(samples)] = predicted.to(predictions.dtype)
                losses[own, 0], losses[own, 1] = loss.double(), weight.double()
    model.train(was_training)
    return _metrics(task, dataset, ranks.sum(predictions).numpy(), ranks.sum(losses))


def _to_device(batch: Batch, num_samples: int, ranks: Ranks) -> tuple[Batch, torch.Tensor]:
    moved = {name: tensor.to(ranks.device) for name, tensor in batch.items()}
    return moved, torch.ones(num_samples, device=ranks.device)


def _wide(predicted: torch.Tensor) -> torch.dtype:
    """A type in which adding zeros is exact, and which NumPy knows."""
    return torch.float32 if predicted.is_floating_point() else torch.int64


def _metrics(
    task: Task, dataset: TokenizedDataset, predictions: NDArray[Any], losses: torch.Tensor
) -> dict[str, float]:
    total, weight = losses.sum(dim=0).tolist()
    metrics = {f"eval/{name}": float(value) for name, value in task.metrics(predictions, dataset).items()}
    return metrics | {"eval/loss": float(np.divide(total, weight))}
