"""The name of a strategy that was described rather than chosen by name."""

from __future__ import annotations

from galley.schema import Strategy

STAGES = {"none": 0, "optimizer": 1, "grads": 2, "params": 3}


def strategy_name(strategy: Strategy) -> str:
    """The name of `strategy=` for it, such as `zero3_offload`; a new one in the same manner if none is."""
    if strategy.engine == "torch":
        return "ddp" if strategy.data_parallel else "single"
    devices = (strategy.offload_optimizer, strategy.offload_params)
    parts = ["nvme"] if "nvme" in devices else ["offload"] if "cpu" in devices else []
    if strategy.engine == "deepspeed":
        return "_".join([f"zero{STAGES[strategy.shard]}", *parts])
    grad_op = ["grad_op"] if strategy.shard == "grads" else []
    hybrid = ["hybrid"] if strategy.hybrid else []
    return "_".join(["fsdp", *grad_op, *hybrid, *parts])
