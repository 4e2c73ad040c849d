"""A recipe as an Accelerate YAML file: `accelerate launch --config_file FILE`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from galley.errors import Problem
from galley.interop.export_deepspeed import STAGE_OF, model_parallel, one_process
from galley.interop.fsdp import SHARDS, STATE_DICTS, WRAPS
from galley.interop.options import OPTIONS, leaves
from galley.schema import Precision, Recipe, Strategy

SHARDING_OF = {pair: name for name, pair in SHARDS.items()}
WRAP_OF = {wrap: name for name, wrap in WRAPS.items()}
STATE_DICT_OF = {kind: name for name, kind in STATE_DICTS.items()}
LOSS_SCALE = ("initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale")


def accelerate_text(recipe: Recipe) -> tuple[str, list[Problem]]:
    """The YAML of the strategy's own engine, and what it cannot say."""
    engine = recipe.strategy.engine
    if engine == "fsdp":
        return fsdp_text(recipe)
    if engine == "deepspeed":
        return _deepspeed_text(recipe)
    cpu, alone = recipe.cluster.device == "cpu", not recipe.strategy.data_parallel
    kind = "NO" if alone else "MULTI_CPU" if cpu else "MULTI_GPU"
    return _dump(_common(recipe, kind)), list(_common_problems(recipe, kind))


def fsdp_text(recipe: Recipe) -> tuple[str, list[Problem]]:
    """The YAML of FSDP, whatever engine the strategy has, and what it cannot say.

    It is of FSDP2, unless it must say what only FSDP1's keys say.
    """
    config = _common(recipe, "FSDP")
    old = _needs_fsdp1(recipe.strategy)
    config["fsdp_config"] = _fsdp_config(recipe, old)
    problems = [*_common_problems(recipe, "FSDP"), *_fsdp_problems(recipe.strategy, old)]
    if recipe.strategy.hybrid_shard_size is not None:
        sizes = _hybrid_sizes(recipe)
        if isinstance(sizes, Problem):
            problems.append(sizes)
        else:
            config["parallelism_config"] = sizes
    return _dump(config), problems


def _common(recipe: Recipe, kind: str) -> dict[str, Any]:
    cluster = recipe.cluster
    compute = recipe.precision.compute
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": kind,
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "no" if compute == "fp32" else compute,
        "num_machines": cluster.nodes,
    }
    if kind not in ("FSDP", "DEEPSPEED") or cluster.device == "cuda":  # else it is the machine's to say
        config["use_cpu"] = kind in ("NO", "MULTI_CPU") and cluster.device == "cpu"
    if recipe.train.compile:
        config["dynamo_config"] = {"dynamo_backend": "INDUCTOR"}
    ranks = 1 if kind == "NO" else cluster.procs_per_node and cluster.procs_per_node * cluster.nodes
    if ranks is not None:  # else `accelerate launch --num_processes N`
        config["num_processes"] = ranks
    gpus = recipe.launcher.env.get("CUDA_VISIBLE_DEVICES")
    return config if gpus is None else {**config, "gpu_ids": gpus}


def _common_problems(recipe: Recipe, kind: str) -> Iterator[Problem]:
    yield from model_parallel(recipe.strategy)
    if recipe.precision.reduce != "fp32":
        what = "Accelerate's file has no key for the format of the sum"
        yield Problem("precision.reduce", what, "--format deepspeed, or precision.reduce=fp32")
    if kind in ("FSDP", "DEEPSPEED") and recipe.cluster.device == "cpu":
        what = f"on the CPU Accelerate trains plain DDP, whatever {kind} asks for"
        yield Problem("cluster.device", what, "cluster.device=auto")


def _deepspeed_text(recipe: Recipe) -> tuple[str, list[Problem]]:
    """By its file where the strategy came from one: Accelerate then takes nothing else from the YAML."""
    config = _common(recipe, "DEEPSPEED")
    problems = list(_common_problems(recipe, "DEEPSPEED"))
    strategy = recipe.strategy
    block: dict[str, Any] = {"zero3_init_flag": strategy.cpu_ram_efficient_loading}
    if strategy.deepspeed_config is not None:
        del config["mixed_precision"]
        file = Path(strategy.deepspeed_config).expanduser().resolve()
        config["deepspeed_config"] = {"deepspeed_config_file": str(file), **block}
        return _dump(config), problems
    config["deepspeed_config"] = {**_plugin(recipe), **block}
    return _dump(config), [*problems, *_plugin_problems(recipe)]


def _plugin(recipe: Recipe) -> dict[str, Any]:
    strategy = recipe.strategy
    block: dict[str, Any] = {
        "zero_stage": STAGE_OF[strategy.shard],
        "gradient_accumulation_steps": recipe.batch.accumulation or "auto",
        "gradient_clipping": recipe.optim.grad_clip or 0.0,
        "offload_optimizer_device": strategy.offload_optimizer,
        "offload_param_device": strategy.offload_params,
    }
    if strategy.shard == "params":
        block["zero3_save_16bit_model"] = True
    return block


def _plugin_problems(recipe: Recipe) -> Iterator[Problem]:
    hint = "write it with --format deepspeed to a file, and name that: strategy.deepspeed_config=FILE.json"
    strategy, precision = recipe.strategy, recipe.precision
    for name, _ in leaves(strategy.engine_options, OPTIONS[strategy.engine]):
        yield Problem(f"strategy.engine_options.{name}", "only DeepSpeed's own file has it", hint)
    if not strategy.offload_pin_memory and _offloads(strategy):
        yield Problem("strategy.offload_pin_memory", "only DeepSpeed's own file can switch it off", hint)
    if "nvme" in (strategy.offload_optimizer, strategy.offload_params):
        what = "Accelerate 1.15 does not pass its offload_*_nvme_path on to DeepSpeed"
        yield Problem("strategy.offload_nvme_path", what, hint)
    defaults = {field.name: field.default for field in fields(Precision)}
    for name in LOSS_SCALE:
        if precision.compute == "fp16" and getattr(precision, name) != defaults[name]:
            yield Problem(f"precision.{name}", "only DeepSpeed's own file has it", hint)


def _offloads(strategy: Strategy) -> bool:
    return {strategy.offload_optimizer, strategy.offload_params} != {"none"}


def _needs_fsdp1(strategy: Strategy) -> bool:
    """FSDP2's keys know no node-wise groups, no replicas without shards, and no prefetch."""
    if strategy.hybrid:
        return strategy.hybrid_shard_size is None
    prefetch = strategy.engine == "fsdp" and strategy.engine_options.get("forward_prefetch", False)
    return strategy.shard == "none" or bool(prefetch) or not strategy.sync_module_states


def _fsdp_config(recipe: Recipe, old: bool) -> dict[str, Any]:
    strategy = recipe.strategy
    block: dict[str, Any] = {
        "fsdp_version": 1 if old else 2,
        "fsdp_auto_wrap_policy": WRAP_OF[strategy.wrap],
        "fsdp_offload_params": strategy.offload_params != "none",
        "fsdp_state_dict_type": STATE_DICT_OF[strategy.state_dict],
        "fsdp_cpu_ram_efficient_loading": strategy.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing": recipe.train.gradient_checkpointing,
    }
    if strategy.wrap == "layers" and strategy.wrap_classes is not None:
        block["fsdp_transformer_layer_cls_to_wrap"] = ",".join(strategy.wrap_classes)
    if strategy.wrap == "size":
        block["fsdp_min_num_params"] = strategy.wrap_min_params
    if not old:
        return {**block, "fsdp_reshard_after_forward": strategy.reshard_after_forward}
    return {
        **block,
        "fsdp_sharding_strategy": SHARDING_OF.get((strategy.shard, strategy.hybrid)),
        "fsdp_sync_module_states": strategy.sync_module_states,
        "fsdp_forward_prefetch": strategy.engine_options.get("forward_prefetch", False),
        "fsdp_backward_prefetch": "BACKWARD_PRE",
        "fsdp_use_orig_params": True,
    }


def _fsdp_problems(strategy: Strategy, old: bool) -> Iterator[Problem]:
    yield from one_process(strategy)
    if strategy.shard == "optimizer":
        what = "FSDP has no like of ZeRO-1, which partitions optimizer state only"
        yield Problem("strategy.shard", what, "strategy.shard=grads")
    if strategy.offload_optimizer != strategy.offload_params:
        what = "FSDP offloads optimizer state and parameters together, or neither"
        yield Problem("strategy.offload_optimizer", what, "set strategy.offload_params to the same")
    if "nvme" in (strategy.offload_optimizer, strategy.offload_params):
        yield Problem("strategy.offload_params", "FSDP offloads to the CPU only", "cpu")
    if not strategy.offload_pin_memory and _offloads(strategy):
        what = "Accelerate's file cannot switch it off"
        yield Problem("strategy.offload_pin_memory", what, "strategy.offload_pin_memory=true")
    if strategy.engine == "deepspeed":
        for name, _ in leaves(strategy.engine_options, OPTIONS["deepspeed"]):
            yield Problem(f"strategy.engine_options.{name}", "it is DeepSpeed's own", "--format deepspeed")
    if not old and strategy.engine_options.get("forward_prefetch"):
        what = "FSDP2's keys have no prefetch"
        yield Problem("strategy.engine_options.forward_prefetch", what, "leave hybrid_shard_size out")
    if not old and not strategy.sync_module_states:
        yield Problem("strategy.sync_module_states", "FSDP2 always does", "strategy.sync_module_states=true")


def _hybrid_sizes(recipe: Recipe) -> dict[str, int] | Problem:
    """Replicas × shards; Accelerate wants both numbers."""
    shards, procs = recipe.strategy.hybrid_shard_size, recipe.cluster.procs_per_node
    if procs is None or shards is None:
        what = "Accelerate counts replicas, and the number of ranks is not stated"
        return Problem("cluster.procs_per_node", what, "set cluster.procs_per_node")
    replicas, rest = divmod(procs * recipe.cluster.nodes, shards)
    if rest or replicas < 2:
        what = f"{procs * recipe.cluster.nodes} ranks are not two or more groups of {shards}"
        return Problem("strategy.hybrid_shard_size", what, "replicas × hybrid_shard_size = ranks")
    prefix = "parallelism_config_"
    return {f"{prefix}dp_replicate_size": replicas, f"{prefix}dp_shard_size": shards}


def _dump(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=True)
