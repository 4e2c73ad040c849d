"""ZeRO through DeepSpeed: optimizer state and gradients partitioned over the ranks.

DeepSpeed is driven directly. It runs in fp32 with the model's forward under autocast, as the torch
engines do, so that master weights and results are the same; its parameters are then the master
weights themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from trainer.optim import make_optimizer
from trainer.strategies.base import MOMENTS, Engine, ReadTensor, Setup

ZERO_STAGES = {"optimizer": 1, "grads": 2}
"""`strategy.shard` -> DeepSpeed's stage."""


def deepspeed_config(setup: Setup) -> dict[str, Any]:
    """DeepSpeed's configuration, derived from the neutral strategy. Nothing in it is `auto`."""
    recipe, layout = setup.recipe, setup.layout
    return {
        "train_micro_batch_size_per_gpu": layout.micro_size,
        "gradient_accumulation_steps": layout.accumulation,
        "gradient_clipping": recipe.optim.grad_clip or 0.0,
        "communication_data_type": recipe.precision.reduce,
        "zero_optimization": {"stage": ZERO_STAGES[recipe.strategy.shard]},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


class ZeroEngine(Engine):
    """A `DeepSpeedEngine` of stage 1 or 2."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        super().__init__(model, setup)
        _refuse_offload(setup)
        deepspeed = _import_deepspeed(setup.layout.device)
        self.module, self.zero, _, _ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, setup.recipe.optim),
            config=deepspeed_config(setup),
            dist_init_required=False,
        )
        self.engine: Any = self.module
        self._create_state()

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        # The last batch of an epoch may have fewer rounds, so DeepSpeed's own count is not used.
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        # DeepSpeed averages over the ranks.
        if self.loss_scale.dynamic:
            self.zero.override_loss_scale(self.loss_scale.scale)
        self.engine.backward(loss * self.world_size(), scale_wrt_gas=False)

    def step(self, lr: float) -> torch.Tensor:
        for group in self.zero.param_groups:
            group["lr"] = lr
        self.engine.step()
        skipped = bool(self.zero.overflow)
        self.optimizer_steps += not skipped
        if self.loss_scale.dynamic:
            self.loss_scale.update(not skipped)
        return torch.as_tensor(self.engine.get_global_grad_norm())

    def world_size(self) -> int:
        world_size: int = self.engine.dp_world_size
        return world_size

    def held_grads(self) -> int:
        whole = [p.grad for p in self.parameters.values() if p.grad is not None]
        parts: list[torch.Tensor] = [
            part for group in self.zero.averaged_gradients.values() if group for part in group
        ]
        return sum(grad.numel() for grad in whole + parts)

    def held_optimizer(self) -> int:
        states = self.zero.optimizer.state.values()
        tensors: list[torch.Tensor] = [t for state in states for t in state.values() if t.ndim > 0]
        return sum(tensor.numel() for tensor in tensors)

    def moment(self, moment: str, name: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        full: torch.Tensor = safe_get_full_optimizer_state(self.parameters[name], moment)
        return full.cpu()

    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        self.optimizer_steps = optimizer_steps
        for flat in self.zero.single_partition_of_fp32_groups:
            self.zero.optimizer.state[flat]["step"].fill_(optimizer_steps)
        for name, parameter in self.trainable.items():
            for moment in MOMENTS:
                value = read(moment, name).to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, moment)

    def _create_state(self) -> None:
        """AdamW's state before its first step.

        DeepSpeed 0.19.8 links parameters to their part of the flat state once, after the step of
        the first parameter group, when the second group has none yet: those parameters could not
        be saved.
        """
        for flat in self.zero.single_partition_of_fp32_groups:
            moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            self.zero.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        self.zero._lazy_init_hp_params_optimizer_state()


def _refuse_offload(setup: Setup) -> None:
    strategy = setup.recipe.strategy
    if strategy.offload_optimizer != "none" or strategy.offload_params != "none":
        raise ConfigError(
            Problem(
                "strategy.offload_optimizer, strategy.offload_params", "cannot be offloaded", "valid: none"
            )
        )


def _import_deepspeed(device: str) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # Serves inference only, but would be compiled (46 s) by the first process group on CPU.
    __compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False)
    return deepspeed
