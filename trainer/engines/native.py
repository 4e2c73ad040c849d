"""The engines of torch alone, by the degrees of parallelism of a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galley.schema import Strategy
    from trainer.engines.base import Engine


def engine(strategy: Strategy) -> type[Engine]:
    """Return the engine of `strategy.engine=torch`. Imports only the module that it needs."""
    if strategy.pipeline_parallel > 1:
        from trainer.engines.model_parallel.pipeline import PipelineEngine

        return PipelineEngine
    if strategy.tensor_parallel > 1:
        from trainer.engines.model_parallel.mesh import MeshEngine

        return MeshEngine
    from trainer.engines.ddp import DdpEngine, SingleEngine

    return DdpEngine if strategy.data_parallel else SingleEngine
