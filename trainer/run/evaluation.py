"""Evaluation over exactly the dataset, with the same numbers on any number of ranks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galley.errors import ConfigError, Problem
from trainer.data.batches import Indices, eval_batches
from trainer.hosts.ranks import Ranks
from trainer.run.throughput import EvalMeter
from trainer.tasks.base import Batch, Task, TokenizedDataset


class OneForward(torch.nn.Module):
    """Wraps a model so that a second call with the very same tensors returns the first call's output.

    `Task.loss` and `Task.predict` each run the model; evaluation needs both for one batch.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model: Any = model
        self._inputs: dict[str, Any] = {}
        self._output: Any = None
        self.config = getattr(model, "config", None)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        inputs |= {f"#{position}": value for position, value in enumerate(args)}
        same = inputs.keys() == self._inputs.keys() and all(inputs[k] is self._inputs[k] for k in inputs)
        if not (same and inputs):
            named = {name: value for name, value in inputs.items() if not name.startswith("#")}
            self._output = self._model(*args, **named)
            self._inputs = inputs
        return self._output

    def generate(self, *args: Any, **options: Any) -> Any:
        """Call the model's own `generate`. Its output is not remembered."""
        return self._model.generate(*args, **options)


def evaluate(
    model: torch.nn.Module,
    task: Task,
    dataset: TokenizedDataset,
    batch_size: int,
    ranks: Ranks,
    meter: EvalMeter,
    one_length: bool = False,
) -> dict[str, float]:
    """Return the `eval/…` metrics, `eval/loss` among them, on every rank. A collective.

    `meter` counts the batches. With `one_length` nothing is padded (`trainer.models.padding`).

    Batches do not depend on the number of ranks: rank r takes batches r, r + R, …
    """
    task.unpadded = one_length and task.splits_by_length
    batches = eval_batches(dataset.lengths, batch_size, one_length and not task.unpadded)
    losses = torch.zeros(len(batches), 2, dtype=torch.float64)
    own_predictions: list[tuple[Indices, torch.Tensor]] = []
    was_training = model.training
    task.step = None

    forward = OneForward(model).eval()
    with torch.no_grad():
        for start in range(0, len(batches), ranks.world_size):
            number = start + ranks.rank
            # The forward of a partitioned model is a collective: a rank that has no batch left in the last
            # round runs batch 0 again and drops its result.
            samples = batches[number if number < len(batches) else 0]

            started = time.perf_counter()
            batch, weights = _to_device(task.collate(dataset.rows(samples.tolist())), len(samples), ranks)
            predicted = task.predict(forward, batch).cpu()
            answered_s = time.perf_counter() - started

            loss, weight = task.loss(forward, batch, weights), task.weight(batch, weights)
            if number < len(batches):
                meter.count(answered_s, len(samples), int(dataset.lengths[samples].sum()))
                losses[number, 0], losses[number, 1] = loss.double(), weight.double()
            # A rank without a batch contributes no rows, but the shape and type of the predictions.
            own_predictions.append((samples if number < len(batches) else samples[:0], predicted))
    model.train(was_training)
    task.unpadded = False

    predictions = _assemble(own_predictions, len(dataset), task.prediction_fill, ranks)
    losses = ranks.sum(losses)
    if not losses[:, 1].any():
        what = "the evaluation split has nothing to measure: no row of it has a target"
        raise ConfigError(Problem("data", what, "other data, or eval.enabled=false"))
    return _metrics(task, dataset, predictions, losses)


def _assemble(
    parts: list[tuple[Indices, torch.Tensor]], num_samples: int, fill: int, ranks: Ranks
) -> NDArray[Any]:
    """Return the predictions of all ranks, one row per sample, padded to the largest shape with `fill`."""
    first = parts[0][1]
    shapes = torch.tensor([part.shape[1:] for _, part in parts], dtype=torch.int64).reshape(len(parts), -1)
    widest = [int(size) for size in ranks.max_floats(shapes.amax(0).tolist())] if first.ndim > 1 else []
    whole = torch.zeros(num_samples, *widest, dtype=_wide(first))
    for samples, predicted in parts:
        if len(samples):
            rows = torch.full((len(samples), *widest), fill, dtype=whole.dtype)
            rows[tuple(slice(size) for size in predicted.shape)] = predicted.to(whole.dtype)
            whole[torch.from_numpy(samples)] = rows
    # Each sample was predicted by one rank and is zero on the others, so that the sum is the gathered whole.
    return ranks.sum(whole).numpy()


def _to_device(batch: Batch, num_samples: int, ranks: Ranks) -> tuple[Batch, torch.Tensor]:
    """Return the batch on the rank's device, and a weight of 1 per sample."""
    moved = {name: tensor.to(ranks.device) for name, tensor in batch.items()}
    return moved, torch.ones(num_samples, device=ranks.device)


def _wide(predicted: torch.Tensor) -> torch.dtype:
    """Return a type in which adding zeros is exact, and which NumPy knows."""
    return torch.float32 if predicted.is_floating_point() else torch.int64


def _metrics(
    task: Task, dataset: TokenizedDataset, predictions: NDArray[Any], losses: torch.Tensor
) -> dict[str, float]:
    """Return the task's metrics and the mean loss, each with the prefix `eval/`."""
    total, weight = losses.sum(dim=0).tolist()
    metrics = {f"eval/{name}": float(value) for name, value in task.metrics(predictions, dataset).items()}
    return metrics | {"eval/loss": float(np.divide(total, weight))}
