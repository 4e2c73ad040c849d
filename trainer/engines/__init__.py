"""Engines, which carry a model under a strategy. An engine is imported only when a run chooses it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from galley.registry import ENGINES
from galley.schema import Strategy
from trainer.engines.base import Engine, Setup
from trainer.engines.compiling import compile_forwards
from trainer.engines.precision import autocast_forward
from trainer.models.meta_init import give_addresses


def engine_class(strategy: Strategy) -> type[Engine]:
    """Return the engine of `strategy`. Raises `ConfigError` if there is no such engine."""
    loaded: type[Engine] | Callable[[Strategy], type[Engine]] = ENGINES.load(strategy.engine, Engine)
    return loaded if isinstance(loaded, type) else loaded(strategy)


def wrap(model: torch.nn.Module, setup: Setup) -> Engine:
    """Put the model on its device under the recipe's strategy, in training mode. A collective."""
    strategy = setup.recipe.strategy
    staged = strategy.pipeline_parallel > 1
    give_addresses(model)
    if strategy.shard != "params" and strategy.engine != "fsdp" and not staged:
        model.to(setup.ranks.device)  # other engines move it piece by piece: it need not fit as a whole
    model.train()
    if setup.recipe.train.compile:
        compile_forwards(model, setup.recipe.strategy, setup.ranks.device.type)
    if not staged:  # a pipeline wraps the forward of each stage itself
        autocast_forward(model, setup.recipe.precision.dtype, setup.ranks.device.type)
    return engine_class(setup.recipe.strategy)(model, setup)
