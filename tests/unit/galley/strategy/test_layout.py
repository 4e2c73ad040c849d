"""Layout: devices, ranks, and the batch equation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.errors import ConfigError
from galley.schema import Batch, Cluster, Precision, Recipe, Strategy
from galley.spec import ClusterFacts
from galley.strategy.layout import layout_warnings, resolve_layout, split_batch

CPU = ClusterFacts(hostname="h", gpus=0, gpu_memory_gib=0, physical_cores=4, memory_gib=16)
GPU = replace(CPU, gpus=2, gpu_memory_gib=24)
RECIPE = Recipe(batch=Batch(global_size=32))


def test_one_rank_a_gpu_else_a_core() -> None:
    cpu, gpu = resolve_layout(RECIPE, CPU), resolve_layout(RECIPE, GPU)
    assert (cpu.world_size, cpu.device, cpu.backend, cpu.threads_per_proc) == (4, "cpu", "gloo", 1)
    assert (gpu.world_size, gpu.device, gpu.backend, gpu.threads_per_proc) == (2, "cuda", "nccl", 2)


def test_at_most_what_the_recipe_says() -> None:
    recipe = replace(RECIPE, cluster=Cluster(max_procs_per_node=2))
    assert resolve_layout(recipe, CPU).world_size == 2
    assert resolve_layout(recipe, replace(CPU, physical_cores=1)).world_size == 1


def test_explicit_ranks_are_honored_and_warned_about() -> None:
    recipe = replace(RECIPE, cluster=Cluster(procs_per_node=8))
    layout = resolve_layout(recipe, CPU)
    assert layout.world_size == 8
    assert any("8 × threads_per_proc 1 > 4 physical cores" in w for w in layout_warnings(recipe, layout, CPU))


def test_single_is_one_rank_without_a_process_group() -> None:
    recipe = replace(RECIPE, strategy=Strategy(name="single", data_parallel=False))
    layout = resolve_layout(recipe, GPU)
    assert (layout.world_size, layout.backend) == (1, "none")


@pytest.mark.parametrize(
    ("cluster", "facts", "message"),
    [
        (Cluster(device="cuda"), CPU, "no CUDA device on h"),
        (Cluster(procs_per_node=3), GPU, "3 ranks, but h has 2 GPUs"),
        (
            Cluster(procs_per_node=3),
            CPU,
            "32 = micro_size ? × accumulation ? × 3 ranks has no whole solution",
        ),
    ],
)
def test_impossible_layouts(cluster: Cluster, facts: ClusterFacts, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        resolve_layout(replace(RECIPE, cluster=cluster), facts)


def test_state_on_a_drive_needs_libaio_and_the_folder(tmp_path: Path) -> None:
    nvme = Strategy(
        "zero3_nvme",
        engine="deepspeed",
        shard="params",
        offload_optimizer="nvme",
        offload_nvme_path=str(tmp_path / "none"),
    )
    recipe = replace(RECIPE, strategy=nvme)
    with pytest.raises(ConfigError) as refused:
        resolve_layout(recipe, CPU)
    assert [problem.where for problem in refused.value.problems] == [
        "strategy.offload_optimizer",
        "strategy.offload_nvme_path",
    ]
    assert "libaio-dev" in refused.value.problems[0].hint
    here = replace(nvme, offload_nvme_path=str(tmp_path))
    assert resolve_layout(replace(recipe, strategy=here), replace(CPU, libaio=True))
    assert resolve_layout(recipe, replace(CPU, declared=True))  # the nodes find out themselves


def test_nearest_batch_sizes_are_offered() -> None:
    with pytest.raises(ConfigError, match="nearest sizes that work: 30, 33"):
        split_batch(Batch(global_size=32), 3)


def test_fp16_on_cpu_is_warned_about() -> None:
    recipe = replace(RECIPE, precision=Precision(compute="fp16"))
    warnings = layout_warnings(recipe, resolve_layout(recipe, CPU), CPU)
    assert any("precision=auto takes what is faster" in w for w in warnings)


sizes = st.one_of(st.none(), st.integers(1, 12))


@given(global_size=st.integers(1, 200), micro=sizes, accumulation=sizes, world=st.integers(1, 8))
def test_a_split_always_satisfies_the_equation(
    global_size: int, micro: int | None, accumulation: int | None, world: int
) -> None:
    batch = Batch(global_size=global_size, micro_size=micro, accumulation=accumulation)
    try:
        total, m, a = split_batch(batch, world)
    except ConfigError:
        assert all(
            m * a * world != global_size
            for m in ([micro] if micro else range(1, global_size + 1))
            for a in ([accumulation] if accumulation else range(1, global_size + 1))
        )
        return
    assert total == global_size == m * a * world
    assert micro in (None, m)
    assert accumulation in (None, a)


def test_precision_follows_the_devices_that_are_used() -> None:
    auto, ampere = replace(RECIPE, precision=Precision(compute="auto")), replace(GPU, bf16=True)
    assert resolve_layout(auto, ampere).precision == "bf16"
    assert resolve_layout(auto, GPU).precision == "fp32"
    assert resolve_layout(auto, CPU).precision == "fp32"
    assert resolve_layout(replace(auto, cluster=Cluster(device="cpu")), ampere).precision == "fp32"
    asked = replace(RECIPE, precision=Precision(compute="fp16"))
    assert resolve_layout(asked, ampere).precision == "fp16"
    assert any("precision=auto is fp32" in w for w in layout_warnings(auto, resolve_layout(auto, GPU), GPU))
    assert not any("precision=auto" in w for w in layout_warnings(auto, resolve_layout(auto, CPU), CPU))
