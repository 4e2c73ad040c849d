"""Derive DeepSpeed's configuration from the neutral strategy. Nothing in it is `auto`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from galley.errors import ConfigError, Problem
from galley.schema import Strategy
from galley.system.nvme import PARAM_BUFFERS, STATE_BUFFERS, SUB_GROUP_SIZE
from trainer.engines.base import Setup

ZERO_STAGES = {"optimizer": 1, "grads": 2, "params": 3}
"""`strategy.shard` -> DeepSpeed's stage."""

# DeepSpeed allocates a bucket of its default size (2 GB in fp32) however small the model is.
LARGEST_BUCKET = 500_000_000


def deepspeed_config(setup: Setup, sizes: Collection[int]) -> dict[str, Any]:
    """Return the derived configuration with `strategy.engine_options` merged in.

    `sizes`: the number of elements of each parameter. Raises `ConfigError` for an option that sets what
    Galley derives, or that it cannot honor.
    """
    derived = _derived(setup)
    options = _without_optimizer(setup.recipe.strategy)
    _refuse_derived(options, derived)
    return _merged(_merged(_defaults(setup, sizes), options), derived)


def uses_cpu_adam(strategy: Strategy) -> bool:
    """Return whether DeepSpeed's compiled AdamW updates the weights; otherwise torch's does."""
    return strategy.offload_optimizer != "none" and not _torch_adam(strategy)


def _derived(setup: Setup) -> dict[str, Any]:
    """Return the keys that follow from the recipe. An option must not set them."""
    recipe, layout = setup.recipe, setup.layout
    strategy = recipe.strategy
    zero: dict[str, Any] = {"stage": ZERO_STAGES[strategy.shard]}
    for key, device in (
        ("offload_optimizer", strategy.offload_optimizer),
        ("offload_param", strategy.offload_params),
    ):
        if device != "none":
            zero[key] = {"device": device}
    return {
        "train_micro_batch_size_per_gpu": layout.micro_size,
        "gradient_accumulation_steps": layout.accumulation,
        "gradient_clipping": recipe.optim.grad_clip or 0.0,
        "communication_data_type": recipe.precision.reduce,
        "zero_optimization": zero,
    }


def _defaults(setup: Setup, sizes: Collection[int]) -> dict[str, Any]:
    """Return the keys that an option may replace."""
    strategy = setup.recipe.strategy
    pinned = {"pin_memory": strategy.offload_pin_memory and setup.layout.device == "cuda"}
    zero: dict[str, Any] = {"reduce_bucket_size": max(1, min(sum(sizes), LARGEST_BUCKET))}
    if setup.layout.device == "cpu" and strategy.shard != "params":
        # Otherwise DeepSpeed 0.19.8 joins the slices of a bucket in new memory, for the same all-reduce.
        zero["reduce_scatter"] = False

    if strategy.shard == "params":
        # DeepSpeed keeps parameters of up to 100 000 elements whole on every rank.
        zero["stage3_param_persistence_threshold"] = 0

    if strategy.offload_optimizer != "none":
        zero["offload_optimizer"] = pinned
    if strategy.offload_params != "none":
        zero["offload_param"] = pinned
    if strategy.offload_optimizer == "nvme":
        zero["offload_optimizer"] = {**pinned, **_state_on_drive(strategy)}
        zero["sub_group_size"] = SUB_GROUP_SIZE
    if strategy.offload_params == "nvme":
        largest = -(-max(sizes) // setup.layout.world_size)
        zero["offload_param"] = {**pinned, **_params_on_drive(strategy, largest)}
        # A parameter that waits for its next use would keep its buffer.
        zero["stage3_max_reuse_distance"] = 0

    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": uses_cpu_adam(strategy),
        "steps_per_print": None,
    }


def _state_on_drive(strategy: Strategy) -> dict[str, Any]:
    """Return the section of the optimizer's state on a drive."""
    return {"nvme_path": strategy.offload_nvme_path, "buffer_count": STATE_BUFFERS}


def _params_on_drive(strategy: Strategy, largest: int) -> dict[str, Any]:
    """Return the section of parameters on a drive. `largest`: elements of the largest part of a parameter.

    DeepSpeed's own buffers take 2 GB. Without `max_in_cpu` the first 10⁹ elements would not go to the drive
    at all.
    """
    buffers = {"buffer_count": PARAM_BUFFERS, "buffer_size": largest}
    return {"nvme_path": strategy.offload_nvme_path, "max_in_cpu": 0, **buffers}


def _torch_adam(strategy: Strategy) -> bool:
    """Return whether the options ask for torch's AdamW."""
    params = strategy.engine_options.get("optimizer", {}).get("params", {})
    return bool(params.get("torch_adam", False))


def _without_optimizer(strategy: Strategy) -> dict[str, Any]:
    """Return the options without those of the optimizer, which Galley makes itself.

    Raises `ConfigError` for one that asks for another optimizer than Galley makes.
    """
    options = dict(strategy.engine_options)
    optimizer = dict(options.pop("optimizer", {}))
    where = "strategy.engine_options.optimizer"
    if optimizer.pop("legacy_fusion", False):
        raise ConfigError(Problem(f"{where}.legacy_fusion", "AdamW is not fused in that way", "leave it out"))
    if optimizer.get("params", {}).get("torch_adam") is False and strategy.offload_optimizer == "none":
        what = "only an offloaded optimizer is DeepSpeed's own; AdamW is torch's otherwise"
        raise ConfigError(Problem(f"{where}.params.torch_adam", what, "valid: true, or leave it out"))
    return options


def _refuse_derived(options: dict[str, Any], derived: dict[str, Any], prefix: str = "") -> None:
    """Raise `ConfigError` for an option that sets a derived key, at any depth."""
    for key, value in options.items():
        if key not in derived:
            continue
        if isinstance(value, dict) and isinstance(derived[key], dict):
            _refuse_derived(value, derived[key], f"{prefix}{key}.")
            continue
        where = f"strategy.engine_options.{prefix}{key}"
        what = f"is derived from the recipe: {derived[key]}"
        raise ConfigError(Problem(where, what, "leave it out, and set the recipe's own key"))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two configurations at every depth; `over` wins."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(base[key], over[key])
    return both
