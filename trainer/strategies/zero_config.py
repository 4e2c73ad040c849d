"""DeepSpeed's configuration, derived from the neutral strategy. Nothing in it is `auto`."""

from __future__ import annotations

from typing import Any

from galley.errors import ConfigError, Problem
from galley.schema import Strategy
from trainer.strategies.base import Setup

ZERO_STAGES = {"optimizer": 1, "grads": 2, "params": 3}
"""`strategy.shard` -> DeepSpeed's stage."""

# DeepSpeed allocates a bucket of its default size (2 GB in fp32) however small the model is.
LARGEST_BUCKET = 500_000_000


def deepspeed_config(setup: Setup, num_parameters: int) -> dict[str, Any]:
    """What is derived, with `strategy.engine_options` merged in.

    Raises `ConfigError` for an option that sets what Galley derives, or that it cannot honor.
    """
    derived = _derived(setup)
    options = _without_optimizer(setup.recipe.strategy)
    _refuse_derived(options, derived)
    return _merged(_merged(_defaults(setup, num_parameters), options), derived)


def uses_cpu_adam(strategy: Strategy) -> bool:
    """Whether DeepSpeed's compiled AdamW updates; torch's own does elsewhere."""
    return strategy.offload_optimizer != "none" and not _torch_adam(strategy)


def _derived(setup: Setup) -> dict[str, Any]:
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


def _defaults(setup: Setup, num_parameters: int) -> dict[str, Any]:
    """What an option may replace."""
    strategy = setup.recipe.strategy
    pinned = {"pin_memory": strategy.offload_pin_memory and setup.layout.device == "cuda"}
    zero: dict[str, Any] = {"reduce_bucket_size": max(1, min(num_parameters, LARGEST_BUCKET))}
    if strategy.shard == "params":
        # DeepSpeed keeps parameters of up to 100 000 elements whole on every rank.
        zero["stage3_param_persistence_threshold"] = 0
    if strategy.offload_optimizer != "none":
        zero["offload_optimizer"] = pinned
    if strategy.offload_params != "none":
        zero["offload_param"] = pinned
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": uses_cpu_adam(strategy),
        "steps_per_print": None,
    }


def _torch_adam(strategy: Strategy) -> bool:
    params = strategy.engine_options.get("optimizer", {}).get("params", {})
    return bool(params.get("torch_adam", False))


def _without_optimizer(strategy: Strategy) -> dict[str, Any]:
    """The options without those of the optimizer, which Galley makes itself.

    Raises `ConfigError` for one of them that asks for another optimizer than it makes.
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
    """Deep; `over` wins."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(base[key], over[key])
    return both
