"""Rules between the keys of a strategy: what each engine can carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from galley.errors import Problem, nearest, valid_values
from galley.schema import Strategy

SHARDS = {"torch": ("none",), "deepspeed": ("optimizer", "grads", "params"), "fsdp": ("grads", "params")}
# Beside tensor or pipeline parallel, the copies of the model may share the optimizer's state (ZeRO-1).
MODEL_PARALLEL_SHARDS = ("none", "optimizer")
# Beside `strategy=auto`; all else is what it chooses.
KEPT_BY_AUTO = ("name", "backend", "ccl_workers", "pin_cores")
_OFFLOADING = "zero2_offload, zero3_offload or fsdp_offload"
TP_STYLES = ("colwise", "rowwise", "colwise_gather_output", "embedding_rowwise", "replicated")
"""`strategy.tp_plan`: rows of the weight are cut, and the output with them; columns, and the input with
them; rows, with a whole output; rows of an embedding, with a whole output; nothing, but the gradient is
a sum over the ranks."""


def strategy_problems(strategy: Strategy) -> Iterator[Problem]:
    """Every combination of keys that no engine carries."""
    if strategy.engine not in SHARDS:  # of another package, which knows what it carries
        return
    valid = SHARDS[strategy.engine]
    if strategy.model_parallel > 1 and strategy.engine == "torch":
        valid = MODEL_PARALLEL_SHARDS
    if strategy.shard not in valid:
        yield Problem(
            "strategy.shard",
            f"engine {strategy.engine} cannot shard '{strategy.shard}'",
            f"strategy.shard={' or '.join(valid)}; or choose another strategy=",
        )
    yield from _auto(strategy)
    yield from _model_parallel(strategy)
    yield from _offload(strategy)
    yield from _fsdp_only(strategy)
    yield from _loading(strategy)
    yield from _options(strategy)


def _auto(strategy: Strategy) -> Iterator[Problem]:
    """What is said besides must hold under whatever is chosen."""
    if strategy.name != "auto":
        return
    for key in fields(strategy):
        if key.name not in KEPT_BY_AUTO and getattr(strategy, key.name) != getattr(Strategy(), key.name):
            what = "is set, but strategy=auto settles it"
            yield Problem(f"strategy.{key.name}", what, "leave it out, or name a strategy")


def _model_parallel(strategy: Strategy) -> Iterator[Problem]:
    tensor, pipeline = strategy.tensor_parallel, strategy.pipeline_parallel
    if strategy.model_parallel > 1 and (strategy.engine != "torch" or not strategy.data_parallel):
        where = "strategy.tensor_parallel" if tensor > 1 else "strategy.pipeline_parallel"
        asked = strategy.engine if strategy.data_parallel else "data_parallel=false"
        yield Problem(where, f"is not combined with {asked}", "strategy=tp, pp or 3d; valid here: 1")
    if strategy.tp_plan and tensor == 1:
        yield Problem("strategy.tp_plan", "cuts nothing: tensor_parallel is 1", "strategy.tensor_parallel=2")
    for style in sorted({*strategy.tp_plan.values()} - {*TP_STYLES}):
        yield Problem("strategy.tp_plan", f"'{style}' is not a way to cut", valid_values(style, TP_STYLES))
    if pipeline == 1 and (strategy.schedule != "1f1b" or strategy.stages_per_rank is not None):
        key = "schedule" if strategy.schedule != "1f1b" else "stages_per_rank"
        yield Problem(f"strategy.{key}", "is of a pipeline, but pipeline_parallel is 1", "strategy=pp")
    elif (strategy.num_stages > pipeline) != (strategy.schedule == "interleaved"):
        what = f"{strategy.schedule} with {strategy.stages_per_rank} stages a rank"
        hint = "1f1b and gpipe have one stage a rank, interleaved at least two"
        yield Problem("strategy.stages_per_rank", what, hint)


def _offload(strategy: Strategy) -> Iterator[Problem]:
    devices = {
        "strategy.offload_optimizer": strategy.offload_optimizer,
        "strategy.offload_params": strategy.offload_params,
    }
    for key, device in devices.items():
        if device != "none" and strategy.engine == "torch":
            yield Problem(key, "engine torch offloads nothing", f"{key}=none, or strategy={_OFFLOADING}")
        elif device == "nvme" and (strategy.engine != "deepspeed" or strategy.shard != "params"):
            what = "nvme needs engine=deepspeed with shard=params (ZeRO-3)"
            yield Problem(key, what, f"{key}=cpu or none, or strategy=zero3_nvme")
    if "nvme" in devices.values() and strategy.offload_nvme_path is None:
        yield Problem("strategy.offload_nvme_path", "is not set", "a folder on the NVMe drive")
    if strategy.engine == "deepspeed" and strategy.offload_params != "none" and strategy.shard != "params":
        what = f"only shard=params can offload parameters, not shard={strategy.shard}"
        hint = "strategy.offload_params=none, or strategy=zero3_offload"
        yield Problem("strategy.offload_params", what, hint)
    if strategy.engine == "fsdp" and strategy.offload_optimizer != strategy.offload_params:
        what = f"fsdp offloads all or nothing: offload_params is {strategy.offload_params}"
        yield Problem("strategy.offload_optimizer", what, "set both to cpu or none")


def _fsdp_only(strategy: Strategy) -> Iterator[Problem]:
    if strategy.hybrid and strategy.engine != "fsdp":
        yield Problem("strategy.hybrid", f"engine {strategy.engine} has no hybrid sharding", "strategy=fsdp")
    if strategy.hybrid_shard_size is not None and not strategy.hybrid:
        what = "is a size of groups, but strategy.hybrid is false"
        yield Problem("strategy.hybrid_shard_size", what, "strategy.hybrid=true")
    if strategy.state_dict == "full" and strategy.engine == "deepspeed":
        what = "DeepSpeed writes a part a rank while training; the final model is full"
        yield Problem("strategy.state_dict", what, "valid: sharded")


def _loading(strategy: Strategy) -> Iterator[Problem]:
    if not strategy.sync_module_states and strategy.engine != "fsdp":
        what = f"engine {strategy.engine} always sends the main rank's weights to all"
        yield Problem("strategy.sync_module_states", what, "valid: true")
    if strategy.cpu_ram_efficient_loading:
        if not strategy.sync_module_states:
            what = "only the main rank would have weights: sync_module_states is false"
            yield Problem("strategy.cpu_ram_efficient_loading", what, "set both to true")
        if strategy.engine != "fsdp" and strategy.shard != "params":
            what = f"engine {strategy.engine} with shard={strategy.shard} holds all parameters on every rank"
            yield Problem("strategy.cpu_ram_efficient_loading", what, "valid: false")


def _options(strategy: Strategy) -> Iterator[Problem]:
    if not strategy.engine_options:
        return
    from galley.interop.options import OPTIONS, leaves, names

    tree = OPTIONS[strategy.engine]
    valid = list(names(tree))
    for name, _ in leaves(strategy.engine_options, tree):
        if name not in valid:
            listing = f"valid: {', '.join(valid)}" if valid else "leave it out: this engine has no options"
            hint = nearest(name, valid) or listing
            where = f"strategy.engine_options.{name}"
            yield Problem(where, f"engine {strategy.engine} takes no '{name}'", hint)
