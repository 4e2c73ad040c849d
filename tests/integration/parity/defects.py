"""Mistakes that real training systems have made, each one change away from a correct engine or sampler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainer.data.batches import BatchPlan
from trainer.engines.base import Setup
from trainer.engines.ddp import DdpEngine, SingleEngine, _average_in


class SummedAccumulation(DdpEngine):
    """The gradient of a step grows with its micro-batches: nobody divided by their number."""

    def backward(self, loss: torch.Tensor) -> None:
        super().backward(loss * self.setup.layout.accumulation)


class AveragedTwice(DdpEngine):
    """Divided by the ranks in the loss, and again by DDP."""

    def backward(self, loss: torch.Tensor) -> None:
        SingleEngine.backward(self, loss)


class LonelyLater(DdpEngine):
    """No all-reduce from the fourth step on, when the checks of the first step have passed."""

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        if self.optimizer_steps < 3:
            with super().micro_batch(last):
                yield
        else:
            with self.ddp.no_sync():
                yield


class CoarseReduce(DdpEngine):
    """Gradients are summed in bf16 though the recipe says fp32."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        super().__init__(model, setup)
        self.ddp.register_comm_hook(self.ddp.process_group, _average_in(torch.bfloat16))


class CoarseMaster(DdpEngine):
    """The weights that the optimizer updates are kept in bf16."""

    def step(self, lr: float) -> torch.Tensor:
        norm = super().step(lr)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.copy_(parameter.bfloat16())
        return norm


class SlowOptimizer(DdpEngine):
    """Half the learning rate that was asked for."""

    def step(self, lr: float) -> torch.Tensor:
        return super().step(lr / 2)


class OtherOrder(BatchPlan):
    """The sampler has a seed of its own."""

    def __init__(self, lengths: Any, seed: int, *rest: Any) -> None:
        super().__init__(lengths, seed + 1, *rest)


class OrderOfEveryRank(BatchPlan):
    """The sampler's seed differs between the ranks: some samples are seen twice, others never."""

    def __init__(self, lengths: Any, seed: int, *rest: Any) -> None:
        super().__init__(lengths, seed + int(os.environ["RANK"]), *rest)
