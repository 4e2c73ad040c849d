"""Engines by the neutral description of a strategy. Modules are imported only when chosen."""

from __future__ import annotations

import importlib

import torch

from galley.errors import ConfigError, Problem, valid_values
from galley.schema import Strategy
from trainer.engines.base import Engine, Setup
from trainer.engines.compiling import compile_forwards
from trainer.engines.precision import autocast_forward
from trainer.models.meta_init import give_addresses

ENGINES = {
    ("torch", False, "none"): "trainer.engines.ddp:SingleEngine",
    ("torch", True, "none"): "trainer.engines.ddp:DdpEngine",
    ("deepspeed", True, "optimizer"): "trainer.engines.deepspeed.zero:ZeroEngine",
    ("deepspeed", True, "grads"): "trainer.engines.deepspeed.zero:ZeroEngine",
    ("deepspeed", True, "params"): "trainer.engines.deepspeed.zero3:Zero3Engine",
    ("fsdp", True, "grads"): "trainer.engines.fsdp:FsdpEngine",
    ("fsdp", True, "params"): "trainer.engines.fsdp:FsdpEngine",
}
"""(engine, data_parallel, shard) -> class, where a rank has, or gathers, a whole model."""

MESH_ENGINE = "trainer.engines.model_parallel.mesh:MeshEngine"
PIPELINE_ENGINE = "trainer.engines.model_parallel.pipeline:PipelineEngine"


def engine_class(strategy: Strategy) -> type[Engine]:
    """Raises `ConfigError` for a combination that no engine carries."""
    if strategy.model_parallel > 1:
        return _class(PIPELINE_ENGINE if strategy.pipeline_parallel > 1 else MESH_ENGINE)
    key = (strategy.engine, strategy.data_parallel, strategy.shard)
    if key not in ENGINES:
        known = [f"engine={e} data_parallel={str(d).lower()} shard={s}" for e, d, s in ENGINES]
        asked = f"engine={key[0]} data_parallel={str(key[1]).lower()} shard={key[2]}"
        raise ConfigError(Problem("strategy", f"nothing carries {asked}", valid_values(asked, known)))
    return _class(ENGINES[key])


def _class(path: str) -> type[Engine]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def wrap(model: torch.nn.Module, setup: Setup) -> Engine:
    """The model on its device under the recipe's strategy, in training mode. A collective."""
    strategy = setup.recipe.strategy
    staged = strategy.pipeline_parallel > 1
    give_addresses(model)
    if strategy.shard != "params" and strategy.engine != "fsdp" and not staged:
        model.to(setup.ranks.device)  # the others move it piece by piece: it need not fit as a whole
    model.train()
    if setup.recipe.train.compile:
        compile_forwards(model, setup.recipe.strategy, setup.ranks.device.type)
    if not staged:  # each stage has a forward of its own
        autocast_forward(model, setup.recipe.precision.dtype, setup.ranks.device.type)
    return engine_class(setup.recipe.strategy)(model, setup)
