"""The `fsdp_config` and `parallelism_config` of an Accelerate file, of FSDP1 or FSDP2, read into
recipe keys. Both are carried by FSDP2."""

from __future__ import annotations

from galley.interop.accelerate_keys import (
    FSDP,
    FSDP_ALIASES,
    PARALLELISM,
    SHARDING_STRATEGIES,
    STATE_DICT_TYPES,
    WRAP_POLICIES,
)
from galley.interop.reading import OPTIONS, Block
from galley.interop.values import Reader, boolean, choice, integer, names, numbered

SHARDS = {
    "FULL_SHARD": ("params", False),
    "SHARD_GRAD_OP": ("grads", False),
    "NO_SHARD": ("none", False),
    "HYBRID_SHARD": ("params", True),
    "HYBRID_SHARD_ZERO2": ("grads", True),
}
"""FSDP1's sharding strategy -> `strategy.shard`, `strategy.hybrid`."""
WRAPS = {"TRANSFORMER_BASED_WRAP": "layers", "SIZE_BASED_WRAP": "size", "NO_WRAP": "none"}
STATE_DICTS = {"FULL_STATE_DICT": "full", "SHARDED_STATE_DICT": "sharded"}


def read_fsdp(top: Block) -> None:
    """Everything under `fsdp_config`, for `distributed_type: FSDP`."""
    block = top.block("fsdp_config", FSDP, FSDP_ALIASES)
    block.read("fsdp_version", choice({"1": 1, "2": 2}))
    if _read_sharding(block) == "NO_SHARD":
        return
    _read_wrap(block)
    offload = block.read("fsdp_offload_params", boolean)
    if offload is not None:  # all or nothing
        for key in ("strategy.offload_params", "strategy.offload_optimizer"):
            block.reading.take(key, "cpu" if offload else "none", block.name("fsdp_offload_params"))
    _read_state_dict(block)
    _read_loading(block)
    block.take("fsdp_activation_checkpointing", "train.gradient_checkpointing", boolean)
    if block.read("fsdp_forward_prefetch", boolean):
        block.reading.take(f"{OPTIONS}.forward_prefetch", True, block.name("fsdp_forward_prefetch"))
    if block.read("fsdp_use_orig_params", boolean) is False:
        what = "FSDP2 always uses the original parameters"
        block.reading.refuse(block.name("fsdp_use_orig_params"), what, "valid: true")


def read_replicas(top: Block) -> None:
    """`parallelism_config` without FSDP: copies of a model that `tp_size` ranks hold."""
    block = top.block("parallelism_config", PARALLELISM)
    _read_tensor_parallel(block)
    if (block.read("parallelism_config_dp_shard_size", integer) or 1) > 1:
        where = block.name("parallelism_config_dp_shard_size")
        top.reading.refuse(where, "shards are FSDP's", "distributed_type: FSDP")


def _read_tensor_parallel(block: Block) -> None:
    size = block.read("parallelism_config_tp_size", integer)
    if size is not None and size > 1:
        block.reading.take("strategy.tensor_parallel", size, block.name("parallelism_config_tp_size"))


def read_parallelism(top: Block) -> None:
    """Replicas of shards (HSDP): `dp_replicate_size × dp_shard_size` ranks."""
    block = top.block("parallelism_config", PARALLELISM)
    _read_tensor_parallel(block)
    replicas = block.read("parallelism_config_dp_replicate_size", integer) or 1
    shards = block.read("parallelism_config_dp_shard_size", integer) or 1
    if replicas == 1:
        return
    where = block.name("parallelism_config_dp_replicate_size")
    ranks = top.read("num_processes", integer)
    if shards == 1:
        top.reading.refuse(where, "replicas without shards are plain DDP", "distributed_type: MULTI_GPU")
    elif ranks is not None and replicas * shards != ranks:
        what = f"dp_replicate_size {replicas} × dp_shard_size {shards} is not num_processes {ranks}"
        top.reading.refuse(where, what)
    else:
        top.reading.take("strategy.hybrid", True, where)
        shard_size = block.name("parallelism_config_dp_shard_size")
        top.reading.take("strategy.hybrid_shard_size", shards, shard_size)


def _read_sharding(block: Block) -> str:
    """FSDP1 names a strategy (FULL_SHARD where it does not), FSDP2 says whether to reshard."""
    found = None
    readers = {
        "fsdp_sharding_strategy": numbered(SHARDING_STRATEGIES),
        "fsdp_reshard_after_forward": _resharding,
    }
    for name, reader in readers.items():
        sharding = block.read(name, reader)
        if sharding is not None:
            _take_sharding(block, sharding, block.name(name))
            found = sharding
    if found is None:
        _take_sharding(block, "FULL_SHARD", "distributed_type")
    return found or "FULL_SHARD"


def _resharding(value: object) -> str:
    """True or false; Accelerate also takes FSDP1's names here."""
    if isinstance(value, bool) or str(value).lower() in ("true", "false"):
        return "FULL_SHARD" if boolean(value) else "SHARD_GRAD_OP"
    return str(numbered(SHARDING_STRATEGIES)(value))


def _take_sharding(block: Block, sharding: str, name: str) -> None:
    shard, hybrid = SHARDS[sharding]
    block.reading.take("strategy.engine", "torch" if shard == "none" else "fsdp", name)
    block.reading.take("strategy.data_parallel", True, name)
    block.reading.take("strategy.shard", shard, name)
    if hybrid:
        block.reading.take("strategy.hybrid", True, name)


def _read_wrap(block: Block) -> None:
    policy = block.take("fsdp_auto_wrap_policy", "strategy.wrap", _mapped(WRAP_POLICIES, WRAPS))
    if policy in (None, "layers"):
        block.take("fsdp_transformer_layer_cls_to_wrap", "strategy.wrap_classes", names)
    if policy in (None, "size"):
        block.take("fsdp_min_num_params", "strategy.wrap_min_params", integer)


def _mapped(options: tuple[str, ...], values: dict[str, str]) -> Reader:
    read = numbered(options)
    return lambda value: values[read(value)]


def _read_state_dict(block: Block) -> None:
    kind = block.read("fsdp_state_dict_type", numbered(STATE_DICT_TYPES))
    if kind == "LOCAL_STATE_DICT":
        what = "LOCAL_STATE_DICT can be loaded by as many ranks only as wrote it"
        block.reading.refuse(block.name("fsdp_state_dict_type"), what, f"valid: {', '.join(STATE_DICTS)}")
    elif kind is not None:
        block.reading.take("strategy.state_dict", STATE_DICTS[kind], block.name("fsdp_state_dict_type"))


def _read_loading(block: Block) -> None:
    sync = block.take("fsdp_sync_module_states", "strategy.sync_module_states", boolean)
    loading = block.take("fsdp_cpu_ram_efficient_loading", "strategy.cpu_ram_efficient_loading", boolean)
    if loading and sync is False:
        what = "only the main rank would have weights: fsdp_sync_module_states is false"
        block.reading.refuse(block.name("fsdp_cpu_ram_efficient_loading"), what, "set both to true")
