"""The memory estimate against the published figures."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from galley.schema import Batch, Cluster, Data, Lora, Model, Precision, Recipe, Shape, Strategy, Train
from galley.strategy.estimate import GIB, estimate_memory, memory_warnings, num_parameters
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU, GPU

BILLION = Recipe(
    model=Model(num_parameters=10**9), batch=Batch(global_size=4), cluster=Cluster(procs_per_node=4)
)


def bytes_per_parameter(shard: str, compute: str, engine: str = "deepspeed") -> float:
    strategy = Strategy(engine=engine, shard=shard)  # type: ignore[arg-type]  # from the table below
    recipe = replace(BILLION, strategy=strategy, precision=Precision(compute=compute))  # type: ignore[arg-type]
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    return estimate.total_gib * GIB / 10**9


@pytest.mark.parametrize(
    ("shard", "compute", "expected"),
    [
        ("none", "bf16", 16),
        ("optimizer", "fp32", 4 + 4 + 8 / 4),
        ("grads", "bf16", 4 + 4 / 4 + 8 / 4),
        ("params", "fp32", 16 / 4),
    ],
)
def test_bytes_a_parameter_follow_the_zero_paper(shard: str, compute: str, expected: float) -> None:
    assert bytes_per_parameter(shard, compute) == pytest.approx(expected)


def test_a_hybrid_group_holds_a_copy_of_its_own() -> None:
    strategy = Strategy(engine="fsdp", shard="params", hybrid=True, hybrid_shard_size=2)
    recipe = replace(BILLION, strategy=strategy)
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    assert estimate.total_gib * GIB == pytest.approx(16e9 / 2)


def test_what_is_frozen_has_no_gradient_and_no_moments() -> None:
    shape = Shape(num_layers=10, hidden_size=1000, num_heads=10)
    model = Model(num_parameters=10**9, shape=shape, lora=Lora(r=8, target_modules=["query", "value"]))
    recipe = replace(BILLION, model=model, strategy=Strategy(engine="deepspeed", shard="grads"))
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    assert estimate.num_trainable == 8 * 2 * 1000 * 2 * 10
    assert estimate.params_gib * GIB == pytest.approx(4 * (10**9 + estimate.num_trainable))
    assert estimate.grads_gib * GIB == pytest.approx(4 * estimate.num_trainable / 4)
    assert estimate.optimizer_gib == pytest.approx(2 * estimate.grads_gib)
    unknown = replace(recipe, model=replace(model, name="some/model", shape=Shape()))
    assert estimate_memory(unknown, resolve_layout(unknown, CPU)) is None


def test_what_is_offloaded_moves_to_the_host_where_there_is_another_memory() -> None:
    strategy = Strategy(engine="deepspeed", shard="grads", offload_optimizer="cpu")
    recipe = replace(BILLION, strategy=strategy, cluster=Cluster(procs_per_node=2))
    on_cpu = estimate_memory(recipe, resolve_layout(recipe, CPU))
    on_gpu = estimate_memory(recipe, resolve_layout(recipe, GPU))
    assert on_cpu is not None
    assert on_gpu is not None
    assert (on_cpu.host_gib, on_gpu.host_gib) == (0.0, on_cpu.grads_gib + on_cpu.optimizer_gib)
    assert on_gpu.total_gib == on_cpu.params_gib


def test_activations_fit_or_a_way_to_make_them_is_named() -> None:
    shape = Shape(num_layers=48, hidden_size=1600, num_heads=25)
    recipe = replace(BILLION, model=Model(num_parameters=10**8, shape=shape), data=Data(max_length=1024))
    layout = resolve_layout(recipe, CPU)
    (warning,) = memory_warnings(estimate_memory(recipe, layout), layout, CPU)
    assert "with activations" in warning
    assert "train.gradient_checkpointing=true" in warning
    less = replace(recipe, train=Train(gradient_checkpointing=True))
    assert memory_warnings(estimate_memory(less, layout), layout, CPU) == []


def test_parameters_are_counted_from_a_local_folder(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "__metadata__": {"format": "pt"},
    }
    body = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body + bytes(48))
    assert num_parameters(Recipe(model=Model(name=str(tmp_path)))) == 12


def test_unknown_size_is_said_not_guessed() -> None:
    recipe = replace(BILLION, model=Model(name="some/model"))
    layout = resolve_layout(recipe, CPU)
    assert estimate_memory(recipe, layout) is None
    assert "model.num_parameters" in memory_warnings(None, layout, CPU)[0]


def test_what_cannot_fit_is_warned_about() -> None:
    layout = resolve_layout(BILLION, CPU)
    (warning,) = memory_warnings(estimate_memory(BILLION, layout), layout, CPU)
    assert "14.9 GiB a rank before activations, but there are 4.0 GiB a rank" in warning
