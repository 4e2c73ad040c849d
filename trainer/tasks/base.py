"""The task seam: what a task gives to the loop, and nothing about ranks, engines or batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from galley.metrics import Metric
from galley.schema import Recipe
from galley.tasks import task_metrics, task_of
from galley.tasks.reports import own_metrics
from trainer.hosts.ranks import Ranks

Batch = dict[str, torch.Tensor]
Sample = dict[str, Any]
MainFirst = Callable[[], AbstractContextManager[None]]


class TokenizedDataset(Protocol):
    """Samples ready for `Task.collate`, addressed by their position in the source.

    Attributes:
        fingerprint: of the content (data, tokenizer, preprocessing); equal content, equal value.
        lengths: int32 array [samples], tokens of each sample after truncation.
    """

    fingerprint: str
    lengths: NDArray[np.int32]

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at `indices`, in that order."""
        ...


@dataclass(frozen=True)
class Datasets:
    """Both splits, tokenized. `eval` is None where the recipe switches evaluation off.

    Where nothing is trained (`eval.only`) a task that learns nothing from the training rows need not
    read them: both are then what is measured.
    """

    train: TokenizedDataset
    eval: TokenizedDataset | None


class Task(ABC):
    """One way to learn from a dataset: the torch half of a `galley.tasks.base.TaskDescription`.

    Attributes:
        ranks: all processes of the run, for what a loss, a generation or a filter does together; null
            outside a run. Set before `datasets`.
        step: the optimizer step (from 0) whose batches are collated, null in evaluation. What is drawn
            for a sample in `collate` follows from the seed, the step and the sample alone, so that it
            depends neither on the number of ranks nor on an interruption.
        prediction_fill: see `predict`.
        splits_by_length: the task itself runs texts of each length apart while `unpadded` is set. Of other
            tasks a batch of the evaluation then holds samples of one length.
        unpadded: set by the evaluation if padding changes the model's answers (`trainer.models.padding`).
        reports: of a class that `task.kind=MODULE:CLASS` names: metric without `eval/` -> `max` or `min`,
            which is better. A literal, because it is also read from the file. The metrics of other tasks are
            in their descriptions.
    """

    prediction_fill = -100
    splits_by_length: ClassVar[bool] = False
    reports: ClassVar[Mapping[str, str]] = {}

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.ranks: Ranks | None = None
        self.step: int | None = None
        self.unpadded = False

    def known_metrics(self) -> dict[str, Metric]:
        """What `metrics` and the evaluation report, as far as the direction is known; the main one first."""
        return own_metrics(self.reports) if task_of(self.recipe).own else task_metrics(self.recipe)

    @abstractmethod
    def datasets(self, main_first: MainFirst) -> Datasets:
        """Read, check and tokenize the data (once: on the node's first rank, inside `main_first`).

        Raises `galley.errors.ConfigError` that names file, line and column of what is wrong.
        """

    @abstractmethod
    def model(self) -> torch.nn.Module:
        """The model on the CPU in fp32, weights loaded; a new head is drawn from the recipe's seed."""

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """One padded batch; every tensor has the samples as its first axis."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """The weighted SUM of the losses, a scalar in fp32.

        `weights` [samples] is 1 for a sample that counts and 0 for padding of the batch. The loop
        divides by the weight of the whole global batch, so that the gradient does not depend on
        how the batch is spread over micro-batches and ranks.
        """

    @abstractmethod
    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """What `loss` sums over, a scalar: the number of samples, or of target tokens."""

    @abstractmethod
    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Predictions [samples, …] for `metrics`, detached.

        Batches may differ in the sizes behind the first axis (tokens, generated tokens): all are
        widened to the largest with `prediction_fill`. `model` also has `generate` where the trained
        model has; it is a collective if the parameters are partitioned.
        """

    @abstractmethod
    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """Metrics without the `eval/` prefix; `predictions[i]` belongs to sample i of `dataset`.

        `eval/loss` is measured by the evaluation itself, as the mean that `loss` and `weight` give.
        """

    @abstractmethod
    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        """Write weights (`state`: full, on the CPU), configuration and tokenizer in Hugging Face format."""
