"""A DeepSpeed JSON file read into recipe keys.

What the file does not state, or calls `"auto"`, is the recipe's; DeepSpeed's own defaults are not
taken. Its optimizer and scheduler are those that Accelerate's `DummyOptim` and `DummyScheduler`
stand for.
"""

from __future__ import annotations

from pathlib import Path

from galley.interop.deepspeed_keys import (
    ACTIVATION_CHECKPOINTING,
    ADAM,
    BF16,
    COMPILE,
    DATA_TYPES,
    FP16,
    OFFLOAD,
    OPTIMIZER,
    REPORTS,
    SCHEDULER,
    SCHEDULES,
    STAGES,
    TENSOR_PARALLEL,
    TENSOR_PARALLEL_ALIASES,
    TOP,
    TOP_ALIASES,
    TP,
    WARMUP,
    ZERO,
    ZERO_ALIASES,
)
from galley.interop.document import read_json
from galley.interop.reading import OPTIONS, Block, Reading, is_off
from galley.interop.values import boolean, choice, integer, number, numbers, text

DEVICES = {name: name for name in ("none", "cpu", "nvme")}
DTYPES = {name: name for name in ("fp32", "bf16", "fp16")}
BATCH_KEYS = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.accumulation",
}


def read_deepspeed(path: Path, named_by: str) -> Reading:
    """What the file sets. Raises `ConfigError` only where there is nothing to read."""
    document = read_json(path, named_by)
    reading = Reading(document)
    top = Block(reading, "", document.data, TOP, TOP_ALIASES)
    _read_zero(top)
    for name, key in BATCH_KEYS.items():
        top.take(name, key, integer)
    take_grad_clip(top, "gradient_clipping")
    top.take("communication_data_type", "precision.reduce", choice(DTYPES))
    _read_precision(top)
    _read_optimizer(top)
    _read_scheduler(top)
    top.block("activation_checkpointing", ACTIVATION_CHECKPOINTING)
    top.block("data_types", DATA_TYPES)
    _read_tensor_parallel(top)
    _read_compile(top)
    if reading.value("strategy.engine") != "deepspeed":
        _leave_out_options(reading)
    reading.close()
    return reading


def take_grad_clip(block: Block, name: str) -> None:
    """0 is DeepSpeed's word for no clipping."""
    limit = block.read(name, number)
    if block.is_auto(name):
        block.reading.left_to_recipe.add("optim.grad_clip")
    if limit is not None:
        block.reading.take("optim.grad_clip", limit or None, block.name(name))


def take_stage(block: Block, name: str) -> None:
    """The stage as engine and shard; stage 0 partitions nothing, which is plain data parallelism."""
    if block.is_auto(name):
        block.reading.left_to_recipe |= {"strategy.engine", "strategy.shard", "strategy.data_parallel"}
        return
    if not block.has(name):
        what = "states no stage: the strategy cannot be told"
        block.reading.refuse(block.name(name), what, "valid: 0 (plain DDP) to 3")
        return
    stage = block.read(name, choice({str(stage): stage for stage in STAGES}))
    if stage is not None:
        written = block.name(name)
        block.reading.take("strategy.engine", "deepspeed" if stage else "torch", written)
        block.reading.take("strategy.data_parallel", True, written)
        block.reading.take("strategy.shard", STAGES[stage], written)


def _read_zero(top: Block) -> None:
    if isinstance(top.reading.document.data.get("zero_optimization"), bool):
        what = "true and false are an old form of stage 1 and 0"
        top.reading.refuse("zero_optimization", what, 'write {"stage": 1}')
        return
    zero = top.block("zero_optimization", ZERO, ZERO_ALIASES)
    take_stage(zero, "stage")
    _read_offload(zero, "offload_optimizer", "strategy.offload_optimizer")
    _read_offload(zero, "offload_param", "strategy.offload_params")
    for name, key in {
        "cpu_offload": "strategy.offload_optimizer",
        "cpu_offload_param": "strategy.offload_params",
    }.items():
        if zero.read(name, boolean):
            top.reading.take(key, "cpu", zero.name(name))
    zero.take("cpu_offload_use_pin_memory", "strategy.offload_pin_memory", boolean)
    # The final model is always gathered, so either value asks for nothing more.
    zero.read("stage3_gather_16bit_weights_on_model_save", boolean)


def _read_offload(zero: Block, name: str, key: str) -> None:
    block = zero.block(name, OFFLOAD)
    if not zero.has(name):
        return
    device = block.take("device", key, choice(DEVICES))
    if device not in (None, "none"):
        _take_first(block, "pin_memory", "strategy.offload_pin_memory", block.read("pin_memory", boolean))
    if device == "nvme":
        path = block.read("nvme_path", text)
        if path is None:
            zero.reading.refuse(zero.name(name), "device is nvme, but there is no nvme_path")
        _take_first(block, "nvme_path", "strategy.offload_nvme_path", path)


def _take_first(block: Block, name: str, key: str, value: object) -> None:
    """The recipe has one word for both kinds of offload: the second, where it differs, is an option."""
    if value is not None:
        earlier = block.reading.value(key)
        option = f"{OPTIONS}.{block.name(name)}"
        block.reading.take(key if earlier in (None, value) else option, value, block.name(name))


def _leave_out_options(reading: Reading) -> None:
    """Stage 0 is plain DDP, which has no use for sizes of buckets; what is to be printed is refused.

    Without a stage there is no engine yet that could take or refuse them.
    """
    kept = [source for source in reading.sources if not source.key.startswith(f"{OPTIONS}.")]
    if reading.value("strategy.engine") == "torch":
        for name in REPORTS:
            if not is_off(reading.value(f"{OPTIONS}.{name}")):
                what = "is DeepSpeed's, which does not carry stage 0: that is plain DDP here"
                reading.refuse_alike(name, what, "switch it off, or choose a stage from 1 to 3")
    if "strategy.engine" not in reading.left_to_recipe:
        reading.sources[:] = kept


def _read_tensor_parallel(top: Block) -> None:
    block = top.block("tensor_parallel", TENSOR_PARALLEL, TENSOR_PARALLEL_ALIASES)
    inner = block.block("tp", TP)
    for part, name in ((block, "autotp_size"), (inner, "tp_size")):
        size = part.read(name, integer)
        if size is not None and size > 1:  # 0 and 1 cut nothing
            top.reading.take("strategy.tensor_parallel", size, part.name(name))


def _read_compile(top: Block) -> None:
    """A block without a word about it is DeepCompile's, which is off unless it says otherwise."""
    block = top.block("compile", COMPILE)
    for name, meaning in (("enabled", True), ("disable", False)):
        said = block.read(name, boolean)
        if said is not None:
            top.reading.take("train.compile", said is meaning, block.name(name))


def _read_precision(top: Block) -> None:
    enabled = {}
    for name, table in (("fp16", FP16), ("bf16", BF16)):
        if top.has(name):
            block = top.block(name, table)
            enabled[name] = None if block.is_auto("enabled") else bool(block.read("enabled", boolean))
            if name == "fp16" and enabled[name] is not False:
                _read_loss_scale(block)
    used = [name for name, on in enabled.items() if on]
    if len(used) == 2:
        top.reading.refuse("bf16.enabled", "fp16 and bf16 are both enabled", "switch one of them off")
    elif used:
        top.reading.take("precision.compute", used[0], f"{top.name(used[0])}.enabled")
    elif enabled and None not in enabled.values():
        top.reading.take("precision.compute", "fp32", f"{top.name(next(iter(enabled)))}.enabled")
    elif enabled:
        top.reading.left_to_recipe.add("precision.compute")


def _read_loss_scale(fp16: Block) -> None:
    for name in ("initial_scale_power", "loss_scale_window", "hysteresis"):
        fp16.take(name, f"precision.{name}", integer)
    fp16.take("min_loss_scale", "precision.min_loss_scale", number)
    fp16.read("auto_cast", boolean)  # the forward runs under autocast: inputs may have any format


def _read_optimizer(top: Block) -> None:
    if not top.has("optimizer"):
        return
    block = top.block("optimizer", OPTIMIZER)
    kind = block.read("type", text)
    if kind is None or kind.lower() not in ("adam", "adamw"):
        top.reading.refuse("optimizer.type", f"{kind!r} is not an optimizer here", "valid: AdamW")
        return
    params = block.block("params", ADAM)
    for name in ("lr", "eps", "weight_decay"):
        params.take(name, f"optim.{name}", number)
    params.take("betas", "optim.betas", numbers)
    # DeepSpeed's Adam decays as AdamW does unless it is told not to (ADAM_W_MODE_DEFAULT).
    for name in ("adam_w_mode", "bias_correction"):
        if params.read(name, boolean) is False:
            top.reading.refuse(params.name(name), "false is another optimizer than AdamW", "valid: true")


def _read_scheduler(top: Block) -> None:
    if not top.has("scheduler"):
        return
    block = top.block("scheduler", SCHEDULER)
    kind = block.read("type", text)
    if kind not in SCHEDULES:
        top.reading.refuse("scheduler.type", f"{kind!r} has no like here", f"valid: {', '.join(SCHEDULES)}")
        return
    top.reading.take("schedule.kind", SCHEDULES[kind], "scheduler.type")
    params = block.block("params", WARMUP)
    params.take("warmup_max_lr", "optim.lr", number)
    params.take("warmup_num_steps", "schedule.warmup_steps", integer)
    params.take("total_num_steps", "train.max_steps", integer)
    params.take("warmup_min_ratio", "schedule.warmup_from", number)
    params.take("cos_min_ratio", "schedule.min_ratio", number)
