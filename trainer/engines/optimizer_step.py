"""One optimizer step by an optimizer of torch: unscale, clip, update, clear."""

from __future__ import annotations

from abc import abstractmethod

import torch

from trainer.engines.base import Engine
from trainer.optim.parameter_groups import set_learning_rate


class OptimizerStep(Engine):
    """An engine whose optimizer is torch's; the gradients may be parts of tensors."""

    optimizer: torch.optim.Optimizer

    def step(self, lr: float) -> torch.Tensor:
        grads = self.take_gradients()
        norm = self.gradient_norm(grads)
        if self.loss_scale.dynamic:
            norm = norm / self.loss_scale.scale
            torch._foreach_mul_(grads, 1 / self.loss_scale.scale)

        # Only a scaled loss may overflow: the step is then left out, and the scale falls.
        finite = not self.loss_scale.dynamic or bool(norm.isfinite())
        if finite:
            self.clip(grads, norm)
            set_learning_rate(self.optimizer.param_groups, lr)
            self.optimizer.step()
            self.optimizer_steps += 1
        self.clear_gradients()

        if self.loss_scale.dynamic:
            self.loss_scale.update(finite)
        return norm

    @abstractmethod
    def take_gradients(self) -> list[torch.Tensor]:
        """Return the gradients that the optimizer will see, summed over all ranks that share them."""

    @abstractmethod
    def gradient_norm(self, grads: list[torch.Tensor]) -> torch.Tensor:
        """Return their norm over the whole model, the same on every rank."""

    @abstractmethod
    def clip(self, grads: list[torch.Tensor], norm: torch.Tensor) -> None:
        """Scale the gradients so that their norm is at most `optim.grad_clip`, if that is set."""

    @abstractmethod
    def clear_gradients(self) -> None:
        """Drop the gradients of this step."""
