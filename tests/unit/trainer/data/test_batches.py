"""The batch plan: exact epochs, independence of ranks, resume by step."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.batches import BatchPlan, SourcePlan, eval_batches, split

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=300).map(lambda n: np.array(n, dtype=np.int32))
SEEDS = st.integers(0, 2**40)


@given(LENGTHS, SEEDS, st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_an_epoch_holds_every_sample_once(
    lengths: Any, seed: Any, global_size: Any, epoch: Any, grouped: Any
) -> None:
    plan = BatchPlan(lengths, seed, global_size, grouped)
    batches = plan.epoch(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == plan.steps_per_epoch
    assert {len(batch) for batch in batches[:-1]} <= {global_size}


@given(LENGTHS, SEEDS, st.integers(1, 40), st.integers(0, 30))
def test_resuming_at_a_step_gives_the_rest_of_the_batches(
    lengths: Any, seed: Any, global_size: Any, step: Any
) -> None:
    plan = BatchPlan(lengths, seed, global_size, length_grouped=True)
    whole = list(islice(plan.from_step(0), step + 5))
    rest = list(islice(BatchPlan(lengths, seed, global_size, True).from_step(step), 5))
    for uninterrupted, resumed in zip(whole[step:], rest, strict=True):
        assert (uninterrupted.step, uninterrupted.epoch, uninterrupted.index) == (
            resumed.step,
            resumed.epoch,
            resumed.index,
        )
        assert uninterrupted.samples.tolist() == resumed.samples.tolist()


@given(LENGTHS, st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), SEEDS)
def test_a_split_is_the_global_batch_on_any_number_of_ranks(
    lengths: Any, world_size: Any, micro_size: Any, rounds: Any, seed: Any
) -> None:
    global_size = world_size * micro_size * rounds
    for batch in BatchPlan(lengths, seed, global_size, True).epoch(0):
        micro = split(batch, lengths, world_size, micro_size)
        assert len(micro) <= rounds
        assert all(len(by_rank) == world_size for by_rank in micro)
        parts = [part for by_rank in micro for part in by_rank]
        counted = [s for part in parts for s, w in zip(part.samples, part.weights, strict=True) if w]
        assert sorted(counted) == sorted(batch.tolist())
        assert all(1 <= len(part.samples) <= micro_size for part in parts)
        sizes = [int(part.weights.sum()) for part in parts]
        assert max(sizes) - min(sizes) <= 2


def test_epochs_and_seeds_shuffle_differently() -> None:
    lengths = np.arange(1, 65, dtype=np.int32)
    orders = {
        tuple(np.concatenate(BatchPlan(lengths, seed, 8, True).epoch(epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_grouping_by_length_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 4000).astype(np.int32)

    def padded(grouped: bool) -> int:
        batches = BatchPlan(lengths, 1, 32, grouped).epoch(0)
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches)

    assert padded(grouped=True) < 1.05 * lengths.sum()
    assert padded(grouped=False) > 1.6 * lengths.sum()


def test_grouped_batches_do_not_come_in_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 4000).astype(np.int32)
    means = [lengths[batch].mean() for batch in BatchPlan(lengths, 1, 32, True).epoch(0)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_total_steps_of_a_part_of_an_epoch() -> None:
    plan = BatchPlan(np.ones(100, dtype=np.int32), 0, 32, False)
    assert plan.steps_per_epoch == 4
    assert plan.total_steps(2.5, None) == 10
    assert plan.total_steps(0.1, None) == 1
    assert plan.total_steps(2.5, 7) == 7


@given(LENGTHS, st.integers(1, 70))
def test_evaluation_covers_every_sample_once_longest_first(lengths: Any, batch_size: Any) -> None:
    batches = eval_batches(lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()


SOURCES = np.repeat(np.arange(4), [100, 40, 3, 0])


def source_plan(weights: tuple[float, ...] = (1, 3, 2, 9), size: int = 8, seed: int = 5) -> SourcePlan:
    return SourcePlan(np.ones(143, dtype=np.int32), seed, size, SOURCES, list(weights))


def test_every_batch_is_of_one_source_drawn_by_weight_and_holds_no_sample_twice() -> None:
    plan = source_plan()
    batches = [batch.samples for batch in islice(plan.from_step(0), 1800)]
    found = [set(SOURCES[samples].tolist()) for samples in batches]
    assert all(len(sources) == 1 for sources in found)
    assert all(len(set(samples.tolist())) == len(samples) for samples in batches)
    counts = [sum(number in sources for sources in found) for number in range(4)]
    # 1800 draws of 1:3:2; the fourth source has no sample. A standard deviation is about 20.
    assert counts[3] == 0
    np.testing.assert_allclose(counts[:3], [300, 900, 600], atol=80)
    sizes = {min(sources): len(samples) for sources, samples in zip(found, batches, strict=True)}
    assert sizes == {0: 8, 1: 8, 2: 3}


def test_a_source_is_gone_through_before_it_begins_again() -> None:
    batches = [samples for samples in source_plan((0.001, 1, 0.001, 1)).epoch(0) if SOURCES[samples[0]] == 1]
    assert len(batches) > 10
    for start in (0, 5):
        seen = np.concatenate(batches[start : start + 5])
        assert sorted(seen.tolist()) == list(range(100, 140))


def test_batches_of_one_source_go_on_as_if_never_stopped_and_seeds_differ() -> None:
    plan = source_plan()
    whole = list(islice(plan.from_step(0), 60))
    for step in (1, plan.steps_per_epoch, 41):
        rest = list(islice(source_plan().from_step(step), 60 - step))
        assert [batch.samples.tolist() for batch in rest] == [b.samples.tolist() for b in whole[step:]]
    other = list(islice(source_plan(seed=6).from_step(0), 60))
    assert [b.samples.tolist() for b in other] != [b.samples.tolist() for b in whole]


def test_the_order_within_a_source_does_not_follow_from_the_draws_of_sources() -> None:
    batches = [samples for samples in source_plan((9, 1, 1, 1)).epoch(0) if SOURCES[samples[0]] == 0]
    order = np.random.default_rng([5, 0]).permutation(100)  # of the generator that draws the sources
    assert not np.array_equal(batches[0], order[:8])
