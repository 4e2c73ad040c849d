"""Combinations of the neutral description that no engine carries."""

from __future__ import annotations

from typing import Any

import pytest

from galley.config.rules.strategy import strategy_problems
from galley.schema import Strategy

ZERO3: dict[str, Any] = {"engine": "deepspeed", "shard": "params"}
FSDP: dict[str, Any] = {"engine": "fsdp", "shard": "params"}


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(),
        Strategy(**ZERO3, offload_optimizer="nvme", offload_params="nvme", offload_nvme_path="/nvme"),
        Strategy(engine="deepspeed", shard="grads", offload_optimizer="cpu"),
        Strategy(**FSDP, hybrid=True, hybrid_shard_size=2, offload_optimizer="cpu", offload_params="cpu"),
        Strategy(
            **FSDP, state_dict="full", sync_module_states=False, engine_options={"forward_prefetch": True}
        ),
        Strategy(
            **ZERO3, engine_options={"aio": {"block_size": 1}, "zero_optimization": {"overlap_comm": True}}
        ),
    ],
)
def test_what_an_engine_carries(strategy: Strategy) -> None:
    assert list(strategy_problems(strategy)) == []


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("strategy.shard", {"engine": "torch", "shard": "grads"}),
        ("strategy.shard", {"engine": "fsdp", "shard": "optimizer"}),
        ("strategy.shard", {"engine": "deepspeed"}),
        ("strategy.offload_optimizer", {"offload_optimizer": "cpu"}),
        ("strategy.offload_optimizer", {**FSDP, "offload_params": "cpu"}),
        ("strategy.offload_params", {**ZERO3, "shard": "grads", "offload_params": "cpu"}),
        ("strategy.offload_nvme_path", {**ZERO3, "offload_params": "nvme"}),
        ("strategy.hybrid", {**ZERO3, "hybrid": True}),
        ("strategy.hybrid_shard_size", {**FSDP, "hybrid_shard_size": 2}),
        ("strategy.state_dict", {**ZERO3, "state_dict": "full"}),
        ("strategy.sync_module_states", {**ZERO3, "sync_module_states": False}),
        ("strategy.cpu_ram_efficient_loading", {"cpu_ram_efficient_loading": True}),
        ("strategy.engine_options.overlap_comm", {**ZERO3, "engine_options": {"overlap_comm": True}}),
        ("strategy.engine_options.aio", {**FSDP, "engine_options": {"aio": {}}}),
        (
            "strategy.engine_options.zero_optimization.stage",
            {**ZERO3, "engine_options": {"zero_optimization": {"stage": 1}}},
        ),
    ],
)
def test_what_no_engine_carries(key: str, settings: dict[str, Any]) -> None:
    assert [problem.where for problem in strategy_problems(Strategy(**settings))] == [key]
