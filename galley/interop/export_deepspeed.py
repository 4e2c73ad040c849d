"""A recipe as a DeepSpeed JSON file.

Numbers that are only known once the data is read (the steps of the run) are `"auto"`: Accelerate and
Transformers fill them in. Everything else is stated, so that DeepSpeed's own defaults play no part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from galley.errors import Problem
from galley.interop.deepspeed import BATCH_KEYS
from galley.interop.deepspeed_keys import SCHEDULES, STAGES
from galley.schema import Recipe, Schedule, Strategy

STAGE_OF = {shard: stage for stage, shard in STAGES.items()}
SCHEDULE_OF = {kind: name for name, kind in SCHEDULES.items()}


def deepspeed_text(recipe: Recipe) -> tuple[str, list[Problem]]:
    """The JSON, and what it cannot say."""
    batch = {name: getattr(recipe.batch, key.split(".")[1]) for name, key in BATCH_KEYS.items()}
    config = {
        **{name: size for name, size in batch.items() if size is not None},
        "gradient_clipping": recipe.optim.grad_clip or 0.0,
        "communication_data_type": recipe.precision.reduce,
        **_precision(recipe),
        "optimizer": _optimizer(recipe),
        "scheduler": _scheduler(recipe),
        "zero_optimization": _zero(recipe.strategy),
    }
    if recipe.strategy.engine == "deepspeed":
        config = _merged(config, recipe.strategy.engine_options)
    return json.dumps(config, indent=2) + "\n", list(_problems(recipe))


def _precision(recipe: Recipe) -> dict[str, Any]:
    compute = recipe.precision.compute
    blocks: dict[str, Any] = {name: {"enabled": compute == name} for name in ("fp16", "bf16")}
    if compute == "fp16":
        for name in ("initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale"):
            value = getattr(recipe.precision, name)
            if value is not None:
                blocks["fp16"][name] = int(value)  # DeepSpeed's are all whole numbers
    return blocks


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    optim = recipe.optim
    params = {
        "lr": optim.lr,
        "betas": list(optim.betas),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    return {"type": "AdamW", "params": params}


def _scheduler(recipe: Recipe) -> dict[str, Any]:
    """Warm-up is stated as linear: DeepSpeed's own default is logarithmic."""
    schedule = recipe.schedule
    kind = SCHEDULE_OF.get(schedule.kind, "WarmupLR")  # others are told as problems
    params: dict[str, Any] = {"warmup_num_steps": schedule.warmup_steps or "auto"}
    params["warmup_type"] = "linear"
    first = schedule.warmup_from or 0.0
    if kind == "WarmupCosineLR":
        params |= {"warmup_min_ratio": first, "cos_min_ratio": schedule.min_ratio or 0.0}
    else:
        params |= {"warmup_min_lr": first * recipe.optim.lr, "warmup_max_lr": recipe.optim.lr}
    if kind != "WarmupLR":
        params["total_num_steps"] = recipe.train.max_steps or "auto"
    return {"type": kind, "params": params}


def _zero(strategy: Strategy) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": STAGE_OF[strategy.shard]}
    devices = {"offload_optimizer": strategy.offload_optimizer, "offload_param": strategy.offload_params}
    for name, device in devices.items():
        if device != "none":
            zero[name] = {"device": device, "pin_memory": strategy.offload_pin_memory}
        if device == "nvme":
            zero[name]["nvme_path"] = strategy.offload_nvme_path
    if strategy.shard == "params":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return zero


def _merged(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for name, value in options.items():
        inner = result.get(name)
        result[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def _schedule_problems(schedule: Schedule) -> Iterator[Problem]:
    if schedule.kind not in SCHEDULE_OF:
        what = f"DeepSpeed has no schedule like {schedule.kind}"
        yield Problem("schedule.kind", what, f"valid: {', '.join(SCHEDULE_OF)}")
    elif schedule.kind != "cosine" and schedule.min_ratio:
        yield Problem("schedule.min_ratio", "only DeepSpeed's cosine ends above zero", "schedule.kind=cosine")


def _problems(recipe: Recipe) -> Iterator[Problem]:
    strategy = recipe.strategy
    yield from _schedule_problems(recipe.schedule)
    if recipe.optim.kind != "adamw":
        what = f"the file is written for AdamW, not for {recipe.optim.kind}"
        yield Problem("optim.kind", what, "optim.kind=adamw")
    yield from one_process(strategy)
    yield from model_parallel(strategy)
    yield from _compiled(recipe)
    if strategy.hybrid:
        yield Problem("strategy.hybrid", "ZeRO partitions over all ranks", "--format fsdp")
    if strategy.cpu_ram_efficient_loading:
        what = "DeepSpeed's file has no key for it; in Accelerate's it is zero3_init_flag"
        yield Problem("strategy.cpu_ram_efficient_loading", what, "--format accelerate")
    if strategy.state_dict == "full":
        what = "DeepSpeed writes a part a rank while training"
        yield Problem("strategy.state_dict", what, "strategy.state_dict=sharded")
    if not strategy.sync_module_states:
        what = "DeepSpeed always sends the main rank's weights to all"
        yield Problem("strategy.sync_module_states", what, "strategy.sync_module_states=true")
    if strategy.engine == "fsdp":
        for name in strategy.engine_options:
            yield Problem(f"strategy.engine_options.{name}", "DeepSpeed prefetches by itself", "leave it out")
    if strategy.offload_params != "none" and strategy.shard != "params":
        yield Problem("strategy.offload_params", "only ZeRO-3 offloads parameters", "strategy.shard=params")
    scale = recipe.precision.min_loss_scale
    if recipe.precision.compute == "fp16" and scale is not None and scale != int(scale):
        yield Problem("precision.min_loss_scale", f"{scale} is no whole number", "at least 1")


def _compiled(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.compile:
        what = "DeepSpeed's file has no key for it; in Accelerate's it is dynamo_config"
        yield Problem("train.compile", what, "--format accelerate, or train.compile=false")


def model_parallel(strategy: Strategy) -> Iterator[Problem]:
    """Of no file that is written here: launched from it, other ranks would hold whole models."""
    for key in ("tensor_parallel", "pipeline_parallel"):
        if getattr(strategy, key) > 1:
            yield Problem(f"strategy.{key}", "the file has no word for it", "another strategy=")


def one_process(strategy: Strategy) -> Iterator[Problem]:
    """A strategy of one rank has nothing to spread."""
    if not strategy.data_parallel:
        yield Problem("strategy.data_parallel", "it is one process", "--format accelerate, or strategy=ddp")
