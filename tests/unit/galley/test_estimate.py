"""The memory estimate against the published figures."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from galley.estimate import GIB, estimate_memory, memory_warnings, num_parameters
from galley.layout import resolve_layout
from galley.schema import Batch, Cluster, Model, Precision, Recipe, Strategy
from tests.unit.galley.test_layout import CPU

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
