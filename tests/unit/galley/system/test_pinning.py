"""Cores dealt out to OpenMP threads and oneCCL workers, against the published figures."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Batch, Cluster, Launcher, Recipe, Strategy
from galley.spec import ClusterFacts, CodeSnapshot, RunSpec
from galley.strategy.layout import resolve_layout
from galley.system.pinning import (
    Core,
    core_problem,
    cpu_list,
    environment_problem,
    plan_pins,
    planned_pins,
    read_cores,
)
from launchers.common.worker_command import pin_environment, rank_environment
from tests.support import REPO, run_process
from trainer.hosts.numa import bind_memory

NODE = tuple(Core(package=cpu // 16, cpu=cpu, node=cpu // 16) for cpu in range(32))


def test_the_documented_node_one_rank_of_32_cores_with_4_workers() -> None:
    pins = plan_pins(NODE, procs_per_node=1, ccl_workers=4, threads=None)
    assert pins.environment() == {
        "CCL_WORKER_AFFINITY": "0,1,2,3",
        "CCL_WORKER_COUNT": "4",
        "I_MPI_PIN_DOMAIN": "[0xfffffff0]",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "KMP_HW_SUBSET": "1T",
        "OMP_NUM_THREADS": "28",
    }
    assert str(pins.ranks[0]) == (
        "CPUs 4-31 (mask 0xfffffff0), oneCCL's workers on 0-3, memory of NUMA node 0-1"
    )


def test_two_ranks_each_stay_in_their_socket() -> None:
    pins = plan_pins(reversed(NODE), procs_per_node=2, ccl_workers=1, threads=None)
    assert pins.threads == 15
    env = pins.environment(local_rank=1)
    assert env["I_MPI_PIN_DOMAIN"] == "[0xfffe,0xfffe0000]"
    assert env["CCL_WORKER_AFFINITY"] == "0,16"
    assert env["GOMP_CPU_AFFINITY"] == " ".join(map(str, range(17, 32)))
    assert str(pins.ranks[1]) == (
        "CPUs 17-31 (mask 0xfffe0000), oneCCL's workers on 16, memory of NUMA node 1"
    )


def test_without_workers_nothing_is_said_about_them() -> None:
    env = plan_pins(NODE[:2], procs_per_node=2, ccl_workers=0, threads=None).environment()
    assert not any(name.startswith("CCL_") for name in env)
    assert (env["I_MPI_PIN_DOMAIN"], env["OMP_NUM_THREADS"]) == ("[0x1,0x2]", "1")


@given(
    procs=st.integers(1, 8),
    workers=st.integers(0, 4),
    threads=st.none() | st.integers(1, 12),
    cores=st.integers(1, 64),
)
def test_no_core_is_given_twice_and_the_equation_decides(
    procs: int, workers: int, threads: int | None, cores: int
) -> None:
    every = [Core(0, 2 * cpu) for cpu in range(cores)]
    if procs * ((threads or 1) + workers) > cores:
        with pytest.raises(ConfigError, match=rf"> {cores} physical core{'' if cores == 1 else 's'}\b"):
            plan_pins(every, procs, workers, threads)
        return
    pins = plan_pins(every, procs, workers, threads)
    given_out = [cpu for rank in pins.ranks for cpu in (*rank.omp_cpus, *rank.ccl_cpus)]
    assert len(given_out) == len(set(given_out)) <= cores
    assert all(len(rank.omp_cpus) == pins.threads >= 1 for rank in pins.ranks)
    assert all(len(rank.ccl_cpus) == workers for rank in pins.ranks)
    assert threads is None or pins.threads == threads


def test_the_oversubscribed_environment_is_refused_with_its_equation() -> None:
    env = {"OMP_NUM_THREADS": "24", "CCL_WORKER_COUNT": "2"}
    problem = environment_problem(env, procs_per_node=2, cores=32)
    assert problem is not None
    assert problem.what == "2 ranks × (24 threads + 2 CCL workers) = 52 > 32 physical cores"
    assert problem.hint == "at most 14 threads a rank"
    assert environment_problem(env | {"OMP_NUM_THREADS": "14"}, 2, 32) is None
    assert environment_problem({"CCL_WORKER_COUNT": "99"}, 2, 32) is None


def test_the_hint_of_the_equation_holds() -> None:
    problem = core_problem(cores=32, procs_per_node=2, ccl_workers=2, threads=24)
    assert problem is not None
    assert (problem.where, problem.hint) == (
        "cluster.threads_per_proc",
        "at most cluster.threads_per_proc=14",
    )
    assert core_problem(32, 2, 2, 14) is None
    none_left = core_problem(cores=4, procs_per_node=2, ccl_workers=2, threads=None)
    assert none_left is not None
    assert none_left.where == "strategy.ccl_workers"


def test_cores_are_physical_and_only_those_allowed(tmp_path: Path) -> None:
    """Two sockets of two cores with two threads each; thread 5 is all that is allowed of its core."""
    for cpu in range(8):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / f"node{cpu % 4 // 2}").mkdir()
        (folder / "topology/physical_package_id").write_text(f"{cpu % 4 // 2}\n")
        (folder / "topology/thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert read_cores(tmp_path, {0, 2, 3, 4, 5, 6}) == (
        Core(0, 0, 0),
        Core(0, 5, 0),
        Core(1, 2, 1),
        Core(1, 3, 1),
    )


def test_a_machine_that_tells_nothing_has_a_core_for_each_cpu(tmp_path: Path) -> None:
    assert read_cores(tmp_path, {3, 1}) == (Core(0, 1), Core(0, 3))


def test_cpu_list() -> None:
    assert cpu_list([8, 0, 1, 2, 3, 10]) == "0-3,8,10"


ONECCL = Recipe(
    strategy=Strategy("oneccl_cpu", backend="probe"),
    batch=Batch(global_size=8),
    cluster=Cluster(device="cpu"),
)


def facts(cores: int, gpus: int = 0) -> ClusterFacts:
    return ClusterFacts(hostname="h", gpus=gpus, gpu_memory_gib=0.0, physical_cores=cores, memory_gib=8.0)


def on(recipe: Recipe, **cluster: int) -> Recipe:
    return replace(recipe, cluster=replace(recipe.cluster, **cluster))


def test_a_layout_gives_a_worker_to_ranks_of_four_cores() -> None:
    wide = resolve_layout(on(ONECCL, procs_per_node=2), facts(32))
    assert (wide.backend, wide.threads_per_proc, wide.ccl_workers) == ("probe", 15, 1)
    narrow = resolve_layout(on(ONECCL, procs_per_node=2), facts(2))
    assert (narrow.threads_per_proc, narrow.ccl_workers) == (1, 0)


def test_ranks_that_take_turns_are_no_error_unless_threads_were_asked_for() -> None:
    assert resolve_layout(on(ONECCL, procs_per_node=4), facts(2)).threads_per_proc == 1
    with pytest.raises(ConfigError, match=r"4 ranks × \(1 thread \+ 0 CCL workers\) = 4 > 2"):
        resolve_layout(on(ONECCL, procs_per_node=4, threads_per_proc=1), facts(2))


def test_an_oversubscribing_environment_of_the_recipe_is_an_error() -> None:
    env = {"OMP_NUM_THREADS": "24", "CCL_WORKER_COUNT": "2"}
    recipe = replace(on(ONECCL, procs_per_node=2), launcher=Launcher(env=env))
    with pytest.raises(ConfigError, match=r"launcher\.env\.OMP_NUM_THREADS.* = 52 > 32 physical cores"):
        resolve_layout(recipe, facts(32))


@pytest.mark.parametrize(("backend", "gpus"), [("nccl", 0), ("ccl", 2), ("gloo", 2)])
def test_a_backend_of_the_other_device_is_an_error(backend: str, gpus: int) -> None:
    strategy = replace(ONECCL.strategy, backend=backend)  # type: ignore[arg-type]
    recipe = replace(ONECCL, strategy=strategy, cluster=Cluster(procs_per_node=2))
    with pytest.raises(ConfigError, match=f"'{backend}' does not carry"):
        resolve_layout(recipe, facts(4, gpus))


def test_a_backend_that_was_named_is_sealed() -> None:
    recipe = replace(ONECCL, strategy=replace(ONECCL.strategy, backend="ccl"))
    assert resolve_layout(on(recipe, procs_per_node=2), facts(2)).backend == "ccl"
    assert resolve_layout(on(recipe, procs_per_node=1), facts(2)).backend == "none"


def test_the_plan_states_the_pins_and_what_oneccl_is_told() -> None:
    """The documented node: 32 cores, 4 of them for oneCCL."""
    strategy = replace(ONECCL.strategy, ccl_workers=4, pin_cores=True)
    recipe = replace(on(ONECCL, procs_per_node=1, nodes=2), strategy=strategy)
    node = replace(facts(32), cores=NODE)
    layout = resolve_layout(recipe, node)
    pins = planned_pins(recipe, layout, node)
    assert pins is not None
    assert (pins.ranks[0].mask, pins.threads, pins.ranks[0].numa_nodes) == ("0xfffffff0", 28, (0, 1))
    described = planned_pins(recipe, layout, replace(facts(32), declared=True))
    assert described is not None
    assert described.ranks[0].mask == "0xfffffff0"
    spec = RunSpec(recipe, layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")
    assert rank_environment(spec, Path("/runs/a"))["CCL_WORKER_COUNT"] == "4"
    assert pin_environment(spec, node)["CCL_WORKER_AFFINITY"] == "0,1,2,3"
    assert pin_environment(spec, replace(facts(32), declared=True)) == {}, "the ranks read their own node"
    unbound = replace(recipe, strategy=replace(strategy, pin_cores=False))
    assert planned_pins(unbound, layout, node) is None


def test_instances_that_cannot_all_be_bound_are_refused() -> None:
    bound = Strategy("ddp", pin_cores=True)
    recipe = replace(on(ONECCL, procs_per_node=2, threads_per_proc=3), strategy=bound)
    assert resolve_layout(recipe, facts(6)).threads_per_proc == 3
    with pytest.raises(ConfigError, match=r"2 ranks × \(3 threads \+ 0 CCL workers\) = 6 > 4 physical cores"):
        resolve_layout(recipe, facts(4))
    taking_turns = replace(recipe, strategy=Strategy("ddp"))
    assert resolve_layout(taking_turns, facts(4)).threads_per_proc == 3


PINNED = """
import ctypes, json, os, sys
from pathlib import Path
from galley.system.pinning import pins_of, read_cores
from galley.spec import Layout
from trainer.backends import prepare
layout = Layout(1, 2, 2, "cpu", "gloo", 1, 8, 4, 1)
prepare.pin(layout, int(sys.argv[1]))
mode, nodes = ctypes.c_int(), (ctypes.c_ulong * 16)()
number = {"x86_64": 239, "aarch64": 236}[os.uname().machine]
ctypes.CDLL(None).syscall(number, ctypes.byref(mode), nodes, 1024, 0, 0)
print(json.dumps([sorted(os.sched_getaffinity(0)), mode.value, nodes[0]]))
"""


def test_ranks_are_bound_to_disjoint_cores_and_to_their_memory() -> None:
    """get_mempolicy(2) is the witness: 2 is MPOL_BIND."""
    cores = read_cores(Path("/sys"), os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core cannot be divided")
    told = [
        run_process([sys.executable, "-P", "-c", PINNED, str(n)], env={"PYTHONPATH": str(REPO)})
        for n in (0, 1)
    ]
    (first, mode, nodes), (second, *_) = (json.loads(done.out) for done in told)
    half = len(cores) // 2
    assert (first, second) == ([cores[0].cpu], [cores[half].cpu])
    assert (mode, nodes) == (2, 1 << cores[0].node)


def test_memory_that_cannot_be_bound_is_told() -> None:
    assert bind_memory([1000]) == "Invalid argument"
    assert "no such call" in bind_memory([])


def test_the_knobs_of_the_launch_are_searched_on_disjoint_cores() -> None:
    recipe = compose_recipe(["recipe=bert_cpu_knobs"])
    assert recipe.strategy.pin_cores
    assert ["jemalloc"] in recipe.hpo.space["cluster.preload"]
    assert recipe.hpo.space["launcher.env.KMP_BLOCKTIME"] == ["0", "1", "200"]
