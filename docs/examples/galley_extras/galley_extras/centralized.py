"""An engine that centralizes gradients before each step (Yong et al. 2020, arXiv:2004.01461)."""

from __future__ import annotations

import torch

from galley.schema import Strategy
from trainer.engines.base import Promise
from trainer.engines.ddp import DdpEngine


class CentralizedEngine(DdpEngine):
    """DDP that subtracts the mean of each output's gradient, for weights of two and more dimensions."""

    @classmethod
    def promise(cls, strategy: Strategy) -> Promise:
        """State what the run verifies in its first step: the wrapper, and nothing partitioned."""
        return Promise("DistributedDataParallel", frozenset())

    def step(self, lr: float) -> torch.Tensor:
        for parameter in self.parameters.values():
            if parameter.grad is not None and parameter.dim() > 1:
                inputs = tuple(range(1, parameter.dim()))
                parameter.grad -= parameter.grad.mean(dim=inputs, keepdim=True)
        return super().step(lr)
