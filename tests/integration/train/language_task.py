"""A language model of a few weights that is killed where KILL says."""

from __future__ import annotations

import os
import signal

import torch

from trainer.tasks.base import Batch
from trainer.tasks.language_modeling import CausalLM


class Killed(CausalLM):
    """KILL=N: the last rank kills itself in its N-th loss of training."""

    num_losses = 0

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        if model.training:
            self.num_losses += 1
            last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
            if last and self.num_losses == int(os.environ.get("KILL", "-1")):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch, weights)
