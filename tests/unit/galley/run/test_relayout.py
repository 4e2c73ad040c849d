"""A sealed run on other ranks: the batch equation, what may change, and what a launcher starts then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.errors import ConfigError
from galley.run.relayout import fit_batch, halved, move, relayout, with_cluster
from galley.schema import Batch, Cluster, Recipe, Strategy
from galley.spec import ClusterFacts, CodeSnapshot, Layout, RunSpec
from galley.strategy.layout import resolve_layout
from launchers.local.launcher import LocalLauncher

CPU = ClusterFacts(hostname="h", gpus=0, gpu_memory_gib=0, physical_cores=4, memory_gib=16)
RECIPE = Recipe(batch=Batch(global_size=32, micro_size=8, accumulation=2), cluster=Cluster(procs_per_node=2))
SEALED = RunSpec(RECIPE, resolve_layout(RECIPE, CPU), CodeSnapshot("0" * 64, None, False), {}, "3.11")


def split(layout: Layout) -> tuple[int, int, int, int]:
    return layout.world_size, layout.micro_size, layout.accumulation, layout.global_size


@given(global_size=st.integers(1, 300), world=st.integers(1, 16), micro=st.integers(1, 40))
def test_the_global_batch_stays_and_a_rank_never_holds_more(global_size: int, world: int, micro: int) -> None:
    sealed = replace(SEALED.layout, global_size=global_size, micro_size=micro)
    if global_size % world:
        with pytest.raises(ConfigError, match=rf"global_size {global_size} = .* × {world} ranks has no"):
            relayout(RECIPE, sealed, world)
        return
    layout = relayout(RECIPE, sealed, world)
    assert layout.micro_size * layout.accumulation * layout.world_size == global_size
    assert layout.micro_size <= micro
    better = range(layout.micro_size + 1, min(micro, global_size // world) + 1)
    assert not [size for size in better if global_size // world % size == 0]


def test_fewer_and_more_ranks() -> None:
    assert split(relayout(RECIPE, SEALED.layout, 1)) == (1, 8, 4, 32)
    assert split(relayout(RECIPE, SEALED.layout, 8)) == (8, 4, 1, 32)
    assert relayout(RECIPE, SEALED.layout, 1).backend == "none"
    assert relayout(RECIPE, relayout(RECIPE, SEALED.layout, 1), 4).backend == "gloo"


def test_nodes_are_kept_whole() -> None:
    two = replace(SEALED.layout, nodes=2, world_size=4)
    three = relayout(replace(RECIPE, batch=Batch(global_size=24)), replace(two, global_size=24), 6)
    assert (three.nodes, three.procs_per_node) == (3, 2)


def test_the_hint_names_numbers_of_ranks_that_work() -> None:
    with pytest.raises(ConfigError, match="divide it: 1, 2, 4, 8, 16, 32"):
        relayout(RECIPE, SEALED.layout, 3)


def test_what_other_ranks_cannot_carry_is_refused() -> None:
    alone = replace(RECIPE, strategy=Strategy("single", data_parallel=False))
    with pytest.raises(ConfigError, match="'single' is one process, but 2 ranks"):
        relayout(alone, SEALED.layout, 2)
    hybrid = Strategy("fsdp_hybrid", engine="fsdp", shard="params", hybrid=True, hybrid_shard_size=2)
    with pytest.raises(ConfigError, match="no solution with two groups"):
        relayout(replace(RECIPE, strategy=hybrid), SEALED.layout, 2)


def test_memory_that_runs_out_halves_the_micro_batch() -> None:
    first = halved(SEALED.layout)
    assert first is not None
    assert split(first) == (2, 4, 4, 32)
    odd = fit_batch(replace(SEALED.layout, global_size=30), 15)
    smaller = halved(odd)
    assert smaller is not None
    assert split(smaller) == (2, 5, 3, 30)
    assert halved(fit_batch(SEALED.layout, 1)) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optim.lr=1"], "only the cluster it runs on may change"),
        (["cluster.nodez=2"], "'cluster.nodez' is not a key"),
        (["cluster.nodes=two"], "expected an integer"),
        (["cluster.nodes="], "cluster.nodes"),
        (["cluster=local"], "only the cluster"),
        (["cluster.nodes=1", "seed=1", "batch.global_size=8"], "batch.global_size=8: a resumed run"),
    ],
)
def test_only_the_cluster_may_change(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_cluster(RECIPE, texts)


def test_one_process_stays_one() -> None:
    alone = Recipe(strategy=Strategy("single", data_parallel=False))
    with pytest.raises(ConfigError, match="'single' is one process"):
        with_cluster(alone, ["cluster.procs_per_node=2"])


def test_a_moved_run_keeps_its_name_and_tells_its_ranks_their_layout(tmp_path: Path) -> None:
    recipe = with_cluster(RECIPE, ["cluster.procs_per_node=4", "cluster.threads_per_proc=1"])
    moved = move(SEALED, recipe, CPU)
    assert split(moved.layout) == (4, 8, 1, 32)
    assert moved.sealed is SEALED
    assert moved.sha256 == SEALED.sha256
    plan = LocalLauncher("python").plan(moved, tmp_path, CPU, 2)
    assert "--nproc-per-node=4" in plan.argv
    assert plan.argv[-1] == SEALED.sha256
    assert json.loads(plan.env["GALLEY_LAYOUT"])["micro_size"] == 8
    assert "GALLEY_LAYOUT" not in LocalLauncher("python").plan(SEALED, tmp_path, CPU, 2).env
