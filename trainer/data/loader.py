"""The micro-batches of a step on the host, collated by the rank itself, or ahead of it by worker processes.

What is drawn for a sample follows from the seed, the step and the sample, so that both make the same batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from galley.system.pdeathsig import bound_to_me
from trainer.data.batches import BatchPlan, GlobalBatch, MicroBatch, even, split
from trainer.tasks.base import Batch, Task, TokenizedDataset

log = logging.getLogger("galley")

Inputs = list[tuple[Batch, torch.Tensor]]
"""A (batch, weights) for each micro-batch of a rank."""


@dataclass(frozen=True)
class Share:
    """The part of every step that one rank collates, and how.

    Attributes:
        rank, world_size: among the ranks that see different samples.
        even: whether all micro-batches have one shape.
    """

    rank: int
    world_size: int
    micro_size: int
    accumulation: int
    even: bool


class StepInputs(Dataset[Inputs]):
    """Maps a global batch to this rank's micro-batches of it."""

    def __init__(self, task: Task, train: TokenizedDataset, lengths: NDArray[Any], share: Share) -> None:
        self._task, self._train, self._lengths, self.share = task, train, lengths, share

    def __getitem__(self, batch: GlobalBatch) -> Inputs:
        self._task.step = batch.step
        share = self.share
        rounds = split(batch.samples, self._lengths, share.world_size, share.micro_size)
        micro_batches = [by_rank[share.rank] for by_rank in rounds]
        if not share.even:
            return [self._collated(micro) for micro in micro_batches]
        # Collated as one batch, all micro-batches get the same padded length.
        whole, weights = self._collated(even(micro_batches, share.accumulation, share.micro_size))
        cut = {name: tensor.chunk(share.accumulation) for name, tensor in whole.items()}
        parts = weights.chunk(share.accumulation)
        return [({n: t[number] for n, t in cut.items()}, part) for number, part in enumerate(parts)]

    def _collated(self, micro: MicroBatch) -> tuple[Batch, torch.Tensor]:
        rows = self._train.rows(micro.samples.tolist())
        return self._task.collate(rows), torch.from_numpy(micro.weights)


@dataclass(frozen=True)
class _Bound:
    """The first call of a worker process: it makes the process end with the rank.

    By its fork the process holds the rank's connections to the other ranks open; if it lived on, they would
    not see that the rank is gone.
    """

    bind: Callable[[], None]

    def __call__(self, worker: int) -> None:
        self.bind()


class Ahead:
    """Makes the inputs of the coming steps in `workers` processes; without workers in this one, at the call.

    The processes are forked: they read the data set that this one has open. They end with `close`, or with
    this process.
    """

    def __init__(self, plan: BatchPlan, first: int, end: int, workers: int) -> None:
        self._plan, self._next, self._end, self._workers = plan, first, end, workers
        self._made: Iterator[Inputs] | None = None
        self._share: Share | None = None

    def take(self, batch: GlobalBatch, inputs: StepInputs) -> Inputs:
        """Return the inputs of this step: the one after the last call's, or that step again.

        A step is requested again, with smaller micro-batches, after memory ran out. Inputs that were made
        ahead are then useless, and are made anew.
        """
        if not self._workers:
            return inputs[batch]
        if self._share != inputs.share or batch.step != self._next:
            self.close()
            self._made = self._start(batch.step, inputs)
            self._share = inputs.share
        assert self._made is not None, "started above"  # noqa: S101
        self._next = batch.step + 1
        return next(self._made)

    def _start(self, first: int, inputs: StepInputs) -> Iterator[Inputs]:
        """Start the worker processes at step `first`."""
        loader = DataLoader(
            inputs,
            batch_size=None,  # an item is a step
            sampler=self._steps(first),  # DataLoader accepts any iterable
            num_workers=self._workers,
            multiprocessing_context="fork",
            # DataLoader draws a seed for its processes: not from the generator of the model's dropout.
            generator=torch.Generator(),
            worker_init_fn=_Bound(bound_to_me()),
        )
        return iter(loader)

    def _steps(self, first: int) -> Iterator[GlobalBatch]:
        """Yield the global batches up to the end of the run."""
        batches = self._plan.from_step(first)
        for _ in range(first, self._end):
            yield next(batches)

    def close(self) -> None:
        """End the processes."""
        made, self._made, self._share = self._made, None, None
        if made is not None:
            made._shutdown_workers()  # type: ignore[attr-defined]  # at once, not when it is garbage-collected
