"""Which samples every optimizer step sees, and how they are spread over ranks.

The sequence of global batches is a pure function of (seed, epoch, lengths, global_size,
length_grouped): no rank count and no state enters it, so that a run is resumed by its step alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# Batches sorted together. As LengthGroupedSampler of Transformers: large enough that batches are
# even, small enough that an epoch stays shuffled (at least four groups where there are samples).
MEGABATCH_BATCHES = 50


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of optimizer step `step` (counted from 0), batch `index` of epoch `epoch`."""

    step: int
    epoch: int
    index: int
    samples: Indices


@dataclass(frozen=True)
class MicroBatch:
    """What one rank holds at once: positions in the dataset, and 1.0 or 0.0 for those that count."""

    samples: Indices
    weights: NDArray[np.float32]


class BatchPlan:
    """All global batches of a run. An epoch holds every sample exactly once.

    The last batch of an epoch may be smaller than `global_size`; it is never dropped.
    """

    def __init__(self, lengths: NDArray[np.int32], seed: int, global_size: int, length_grouped: bool) -> None:
        self.lengths = lengths
        self.seed = seed
        self.global_size = global_size
        self.length_grouped = length_grouped
        self.steps_per_epoch = math.ceil(len(lengths) / global_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """The global batches of one epoch, in order."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths))
        whole = len(order) - len(order) % self.global_size
        batches = list(order[:whole].reshape(-1, self.global_size))
        if self.length_grouped and batches:
            batches = self._grouped(order[:whole], random)
        return batches + ([order[whole:]] if whole < len(order) else [])

    def from_step(self, step: int) -> Iterator[GlobalBatch]:
        """Endlessly, from optimizer step `step` on: what a run that was resumed there still sees."""
        while True:
            epoch, first = divmod(step, self.steps_per_epoch)
            for index, samples in enumerate(self.epoch(epoch)[first:], first):
                yield GlobalBatch(step, epoch, index, samples)
                step += 1

    def total_steps(self, epochs: float, max_steps: int | None) -> int:
        steps = math.ceil(epochs * self.steps_per_epoch)
        return steps if max_steps is None else min(steps, max_steps)

    def _grouped(self, order: Indices, random: np.random.Generator) -> list[Indices]:
        """Sort by length inside megabatches, cut into batches, shuffle the batches."""
        num_batches = len(order) // self.global_size
        group = max(1, min(num_batches // 4, MEGABATCH_BATCHES)) * self.global_size
        parts = [order[start : start + group] for start in range(0, len(order), group)]
        ordered = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate(ordered).reshape(-1, self.global_size)
        return list(batches[random.permutation(num_batches)])


class SourcePlan(BatchPlan):
    """Every global batch is of one source, drawn by weight; lengths are not grouped.

    A source is gone through in random order, again and again within an epoch, in whole batches; what is
    left at the end of a round comes in another one. A source with fewer samples than a batch gives all
    of them, none twice. An epoch has as many batches as all samples would make.
    """

    def __init__(
        self, lengths: NDArray[np.int32], seed: int, global_size: int, sources: Indices, weights: list[float]
    ) -> None:
        super().__init__(lengths, seed, global_size, length_grouped=False)
        self.sources = [np.flatnonzero(sources == number) for number in range(len(weights))]
        present = np.array(
            [weight * bool(len(own)) for weight, own in zip(weights, self.sources, strict=True)]
        )
        self.shares = present / present.sum()

    def epoch(self, epoch: int) -> list[Indices]:
        random = np.random.default_rng([self.seed, epoch])
        chosen = random.choice(len(self.sources), self.steps_per_epoch, p=self.shares)
        # From 1: a trailing 0 adds nothing to a seed, so that one source's order would follow from the draws.
        streams = [self._rounds(own, [self.seed, epoch, n]) for n, own in enumerate(self.sources, 1)]
        return [next(streams[number]) for number in chosen]

    def _rounds(self, own: Indices, seed: list[int]) -> Iterator[Indices]:
        random, size = np.random.default_rng(seed), min(self.global_size, len(own))
        while True:
            order = random.permutation(own)
            yield from (order[start : start + size] for start in range(0, len(own) - size + 1, size))


class StreamPlan(BatchPlan):
    """The global batches of a stream, one after the other; its epoch is the run of `num_steps`."""

    def __init__(self, lengths: Any, seed: int, global_size: int, num_steps: int) -> None:
        self.lengths = lengths
        self.seed = seed
        self.global_size = global_size
        self.length_grouped = False
        self.steps_per_epoch = num_steps

    def from_step(self, step: int) -> Iterator[GlobalBatch]:
        while True:
            samples = np.arange(step * self.global_size, (step + 1) * self.global_size)
            yield GlobalBatch(step, 0, step, samples)
            step += 1

    def total_steps(self, epochs: float, max_steps: int | None) -> int:
        return self.steps_per_epoch


def split(
    samples: Indices, lengths: NDArray[np.int32], world_size: int, micro_size: int
) -> list[list[MicroBatch]]:
    """Micro-batches of one global batch: `[round][rank]`, at most `micro_size` samples each.

    The samples of a round are of like length and dealt one by one, so that ranks finish together.
    No round is added for samples that are not there. Every rank gets a micro-batch in every
    round: one without a sample of its own gets one of weight 0, because engines synchronise in
    backward.
    """
    order = samples[np.argsort(lengths[samples], kind="stable")]
    rounds = math.ceil(len(order) / (world_size * micro_size))
    return [
        [_micro_batch(part[rank::world_size], part) for rank in range(world_size)]
        for part in np.array_split(order, rounds)
    ]


def _micro_batch(own: Indices, part: Indices) -> MicroBatch:
    if len(own):
        return MicroBatch(own, np.ones(len(own), dtype=np.float32))
    return MicroBatch(part[:1], np.zeros(1, dtype=np.float32))


def even(micro_batches: list[MicroBatch], count: int, size: int) -> MicroBatch:
    """`count` micro-batches of `size` samples each, one behind the other.

    What is missing is filled up with samples of weight 0.
    """
    filler = micro_batches[0].samples[0]
    samples = np.full((count, size), filler, dtype=np.int64)
    weights = np.zeros((count, size), dtype=np.float32)
    for row, micro in enumerate(micro_batches):
        samples[row, : len(micro.samples)] = micro.samples
        weights[row, : len(micro.samples)] = micro.weights
    return MicroBatch(samples.reshape(-1), weights.reshape(-1))


def eval_batches(lengths: NDArray[np.int32], batch_size: int, one_length: bool = False) -> list[Indices]:
    """Batches of like length for evaluation, longest first; the same on any number of ranks.

    With `one_length` a batch holds samples of one length alone, so that none is padded.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order])) + 1 if one_length else np.empty(0, dtype=np.int64)
    return [
        part[start : start + batch_size]
        for part in np.split(order, borders)
        for start in range(0, len(part), batch_size)
    ]
