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
    """Answers a second call with the very same tensors from the first one's output.

    `Task.loss` and `Task.predict` each run the model; evaluation needs both of one batch.
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
        """As the model itself: what it generates is not remembered."""
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
    """`eval/…` metrics on every rank, `eval/loss` among them. A collective. `meter` counts its batches.
    With `one_length` no batch is padded (`trainer.models.padding`).

    Batches do not depend on the number of ranks; rank r takes batches r, r + R, …; a rank that has
    none left in the last round repeats batch 0 and throws it away, because the forward of a
    partitioned model is itself a collective.
    """
    batches = eval_batches(dataset.lengths, batch_size, one_length)
    losses = torch.zeros(len(batches), 2, dtype=torch.float64)
    own_predictions: list[tuple[Indices, torch.Tensor]] = []
    was_training, task.step = model.training, None
    forward = OneForward(model).eval()
    with torch.no_grad():
        for start in range(0, len(batches), ranks.world_size):
            own = start + ranks.rank
            samples = batches[own if own < len(batches) else 0]
            started = time.perf_counter()
            batch, weights = _to_device(task.collate(dataset.rows(samples.tolist())), len(samples), ranks)
            predicted = task.predict(forward, batch).cpu()
            answered_s = time.perf_counter() - started
            loss, weight = task.loss(forward, batch, weights), task.weight(batch, weights)
            if own < len(batches):
                meter.count(answered_s, len(samples), int(dataset.lengths[samples].sum()))
                losses[own, 0], losses[own, 1] = loss.double(), weight.double()
            # A rank without a batch of its own still tells the shape and type of predictions.
            own_predictions.append((samples if own < len(batches) else samples[:0], predicted))
    model.train(was_training)
    predictions = _assemble(own_predictions, len(dataset), task.prediction_fill, ranks)
    losses = ranks.sum(losses)
    if not losses[:, 1].any():
        what = "the evaluation split has nothing to measure: no row of it has a target"
        raise ConfigError(Problem("data", what, "other data, or eval.enabled=false"))
    return _metrics(task, dataset, predictions, losses)


def _assemble(
    parts: list[tuple[Indices, torch.Tensor]], num_samples: int, fill: int, ranks: Ranks
) -> NDArray[Any]:
    """The predictions of all ranks, one row a sample, widened to the largest with `fill`."""
    first = parts[0][1]
    own = torch.tensor([part.shape[1:] for _, part in parts], dtype=torch.int64).reshape(len(parts), -1)
    widest = [int(size) for size in ranks.max_floats(own.amax(0).tolist())] if first.ndim > 1 else []
    whole = torch.zeros(num_samples, *widest, dtype=_wide(first))
    for samples, predicted in parts:
        if len(samples):
            rows = torch.full((len(samples), *widest), fill, dtype=whole.dtype)
            rows[tuple(slice(size) for size in predicted.shape)] = predicted.to(whole.dtype)
            whole[torch.from_numpy(samples)] = rows
    return ranks.sum(whole).numpy()


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
