"""ZeRO through DeepSpeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galley.schema import Strategy
    from trainer.engines.base import Engine


def engine(strategy: Strategy) -> type[Engine]:
    """Return the engine of `strategy.engine=deepspeed`: ZeRO-3, or ZeRO-1 and ZeRO-2."""
    if strategy.shard == "params":
        from trainer.engines.deepspeed.zero3 import Zero3Engine

        return Zero3Engine
    from trainer.engines.deepspeed.zero import ZeroEngine

    return ZeroEngine
