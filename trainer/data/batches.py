"""Which samples every optimizer step sees, and how they are distributed over the ranks.

The sequence of global batches is a pure function of (seed, epoch, lengths, global_size,
length_grouped): it does not depend on the number of ranks or on any state, so that a run is resumed by its
step alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# Batches that are sorted together, like in Transformers' LengthGroupedSampler: large enough that batches are
# even, small enough that an epoch stays shuffled (at least four groups if there are enough samples).
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
    """The samples that one rank holds at once.

    Attributes:
        samples: positions in the dataset.
        weights: 1.0 for samples that count, 0.0 for others.
    """

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
        """Return the global batches of one epoch, in order."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths))
        whole = len(order) - len(order) % self.global_size
        batches = list(order[:whole].reshape(-1, self.global_size))
        if self.length_grouped and batches:
            batches = self._grouped(order[:whole], random)
        return batches + ([order[whole:]] if whole < len(order) else [])

    def from_step(self, step: int) -> Iterator[GlobalBatch]:
        """Yield batches without end from optimizer step `step` on: those of a run that is resumed there."""
        while True:
            epoch, first = divmod(step, self.steps_per_epoch)
            for index, samples in enumerate(self.epoch(epoch)[first:], first):
                yield GlobalBatch(step, epoch, index, samples)
                step += 1

    def total_steps(self, epochs: float, max_steps: int | None) -> int:
        """Return the number of steps of the run."""
        steps = math.ceil(epochs * self.steps_per_epoch)
        return steps if max_steps is None else min(steps, max_steps)

    def _grouped(self, order: Indices, random: np.random.Generator) -> list[Indices]:
        """Sort by length inside megabatches, cut into batches, and shuffle the batches."""
        num_batches = len(order) // self.global_size
        group = max(1, min(num_batches // 4, MEGABATCH_BATCHES)) * self.global_size
        parts = [order[start : start + group] for start in range(0, len(order), group)]
        ordered = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate(ordered).reshape(-1, self.global_size)
        return list(batches[random.permutation(num_batches)])


class SourcePlan(BatchPlan):
    """Every global batch is of one source, drawn by weight. Lengths are not grouped.

    A source is read in random order, again and again within an epoch, in whole batches; samples that are
    left at the end of a round come in another one. A source with fewer samples than a batch gives all
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
        # From 1: NumPy ignores a trailing 0 in a seed, so that source 0 would repeat the draws above.
        streams = [self._rounds(own, [self.seed, epoch, n]) for n, own in enumerate(self.sources, 1)]
        return [next(streams[number]) for number in chosen]

    def _rounds(self, members: Indices, seed: list[int]) -> Iterator[Indices]:
        """Yield batches of one source without end."""
        random, size = np.random.default_rng(seed), min(self.global_size, len(members))
        while True:
            order = random.permutation(members)
            yield from (order[start : start + size] for start in range(0, len(members) - size + 1, size))


class StreamPlan(BatchPlan):
    """The global batches of a stream, one after the other. Its epoch is the run of `num_steps`."""

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
    """Return the micro-batches of one global batch: `[round][rank]`, at most `micro_size` samples each.

    The samples of a round have similar lengths and are dealt one by one, so that ranks finish together.
    No round is added for missing samples. Every rank gets a micro-batch in every
    round: a rank without a sample gets one of weight 0, because engines synchronise in
    backward.
    """
    order = samples[np.argsort(lengths[samples], kind="stable")]
    rounds = math.ceil(len(order) / (world_size * micro_size))
    return [
        [_micro_batch(part[rank::world_size], part) for rank in range(world_size)]
        for part in np.array_split(order, rounds)
    ]


def _micro_batch(members: Indices, part: Indices) -> MicroBatch:
    """Return the rank's samples; if there are none, one of the round with weight 0."""
    if len(members):
        return MicroBatch(members, np.ones(len(members), dtype=np.float32))
    return MicroBatch(part[:1], np.zeros(1, dtype=np.float32))


def even(micro_batches: list[MicroBatch], count: int, size: int) -> MicroBatch:
    """Return `count` micro-batches of `size` samples each, one after the other.

    Missing samples are replaced by samples of weight 0.
    """
    filler = micro_batches[0].samples[0]
    samples = np.full((count, size), filler, dtype=np.int64)
    weights = np.zeros((count, size), dtype=np.float32)
    for row, micro in enumerate(micro_batches):
        samples[row, : len(micro.samples)] = micro.samples
        weights[row, : len(micro.samples)] = micro.weights
    return MicroBatch(samples.reshape(-1), weights.reshape(-1))


def eval_batches(lengths: NDArray[np.int32], batch_size: int, one_length: bool = False) -> list[Indices]:
    """Return batches of similar length for evaluation, longest first, the same on any number of ranks.

    With `one_length` a batch holds only samples of one length, so that none is padded.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order])) + 1 if one_length else np.empty(0, dtype=np.int64)
    return [
        part[start : start + batch_size]
        for part in np.split(order, borders)
        for start in range(0, len(part), batch_size)
    ]
