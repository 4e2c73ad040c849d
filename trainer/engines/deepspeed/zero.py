"""ZeRO-1 and ZeRO-2 through DeepSpeed: optimizer state and gradients partitioned over the ranks.

DeepSpeed is driven directly. It runs in fp32 with the model's forward under autocast, like the torch
engines, so that master weights and results are the same; its parameters are then the master
weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from trainer.engines.base import Engine, ReadTensor, Setup
from trainer.engines.deepspeed.config import deepspeed_config, uses_cpu_adam
from trainer.engines.deepspeed.nvme import Drive
from trainer.engines.deepspeed.operators import import_deepspeed, load_async_io, load_cpu_adam
from trainer.optim.optimizers import counts_steps
from trainer.optim.parameter_groups import make_optimizer, param_groups, set_learning_rate

# Bytes per parameter on a drive: weight, master weight and two moments, fp32.
DRIVE_BYTES = 4 * 4


class ZeroEngine(Engine):
    """A `DeepSpeedEngine` of stage 1 or 2; the optimizer may be in host memory."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        super().__init__(model, setup)
        deepspeed = import_deepspeed(setup)
        config = deepspeed_config(setup, [p.numel() for p in self.parameters.values()])
        self.drive = open_drive(config, self.parameters.values(), setup)
        self.cpu_adam = uses_cpu_adam(setup.recipe.strategy)
        optimizer = (
            make_cpu_adam(model, setup) if self.cpu_adam else make_optimizer(model, setup.recipe.optim)
        )

        if setup.recipe.strategy.shard == "params":
            # `Init` moves one parameter at a time to the device; `initialize` would move all of them first.
            deepspeed.zero.Init(module=model, config_dict_or_path=config)
            for buffer in model.buffers():
                buffer.data = buffer.data.to(setup.ranks.device)
                if setup.recipe.strategy.cpu_ram_efficient_loading:
                    deepspeed.comm.broadcast(buffer.data, 0)

        self.module, self.zero, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=config,
            dist_init_required=False,
        )
        self.engine: Any = self.module
        self._create_state()

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        # Not DeepSpeed's own count: the last batch of an epoch may have fewer rounds.
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        # DeepSpeed averages over the ranks, and the loss is this rank's part of a sum: undo the division.
        if self.loss_scale.dynamic:
            self.zero.override_loss_scale(self.loss_scale.scale)
        self.engine.backward(loss * self.world_size(), scale_wrt_gas=False)

    def step(self, lr: float) -> torch.Tensor:
        set_learning_rate(self.zero.param_groups, lr)
        self.engine.step()
        skipped = bool(self.zero.overflow)
        self.optimizer_steps += not skipped
        if self.loss_scale.dynamic:
            self.loss_scale.update(not skipped)
        return torch.as_tensor(self.engine.get_global_grad_norm())

    def close(self) -> None:
        if self.drive is not None:
            self.setup.ranks.barrier()
            self.drive.close()

    def world_size(self) -> int:
        world_size: int = self.engine.dp_world_size
        return world_size

    def reduce_dtype(self) -> torch.dtype | None:
        dtype: torch.dtype = self.engine.communication_data_type
        return dtype

    def flat_parts(self) -> list[torch.Tensor]:
        """Return this rank's parts of the master weights, which the optimizer updates."""
        parts: list[torch.Tensor] = self.zero.single_partition_of_fp32_groups
        return parts

    def held_grads(self) -> int:
        whole = [p.grad for p in self.parameters.values() if p.grad is not None]
        # An offloaded optimizer keeps its gradients beside the weights, any other in lists.
        parts = [part.grad for part in self.flat_parts() if part.grad is not None]
        for group in self.zero.averaged_gradients.values():
            parts += group or []
        return sum(grad.numel() for grad in whole + parts)

    def held_optimizer(self) -> int:
        states = self.zero.optimizer.state.values()
        tensors = [
            t for state in states for t in state.values() if isinstance(t, torch.Tensor) and t.ndim > 0
        ]
        return sum(tensor.numel() for tensor in tensors)

    def moment(self, moment: str, name: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        full: torch.Tensor = safe_get_full_optimizer_state(self.parameters[name], moment)
        return full.cpu()

    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        self.optimizer_steps = optimizer_steps
        for flat in self.flat_parts():
            self.zero.optimizer.state[flat].update(self._count(flat))
        for name, parameter in self.trainable.items():
            for moment in self.moments(name):
                self._load_moment(parameter, moment, read(moment, name))

    def _load_moment(self, parameter: torch.nn.Parameter, moment: str, full: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, full.to(parameter.device), moment)

    def _count(self, flat: torch.Tensor) -> dict[str, int | torch.Tensor]:
        """Return the optimizer's own count of steps, if it keeps one. Torch's count is a tensor."""
        if not counts_steps(self.setup.recipe.optim):
            return {}
        if self.cpu_adam:
            return {"step": self.optimizer_steps}
        return {"step": torch.tensor(float(self.optimizer_steps), device=flat.device)}

    def _create_state(self) -> None:
        """Create the optimizer's state before its first step.

        DeepSpeed 0.19.8 links parameters to their part of the flat state once, after the step of
        the first parameter group, when the second group has none yet: its parameters could not
        be saved.
        """
        for number, flat in enumerate(self.flat_parts()):
            with self._in_memory(number):
                names = self.elementwise_moments
                moments = {moment: torch.zeros_like(flat, requires_grad=False) for moment in names}
                self.zero.optimizer.state[flat] = {**self._count(flat), **moments}
        self._link_state()

    def _in_memory(self, number: int) -> AbstractContextManager[None]:
        """Enclose a change of the state of a flat part. State that is elsewhere is fetched and put back."""
        return nullcontext()

    def _link_state(self) -> None:
        """Link parameters to their part of the flat state, as DeepSpeed does after the first step."""
        self.zero._lazy_init_hp_params_optimizer_state()


def open_drive(
    config: dict[str, Any], parameters: Iterable[torch.nn.Parameter], setup: Setup
) -> Drive | None:
    """Return a place on the drives that `config` names, and name it there; None if there is none.

    A collective.
    """
    offloaded = [config["zero_optimization"].get(f"offload_{kind}", {}) for kind in ("param", "optimizer")]
    on_drive = [section for section in offloaded if section.get("device") == "nvme"]
    if not on_drive:
        return None
    share = sum(p.numel() for p in parameters) * setup.layout.procs_per_node // setup.layout.world_size
    drive = Drive({section["nvme_path"] for section in on_drive}, DRIVE_BYTES * share, setup)
    for section in on_drive:
        section["nvme_path"] = str(drive.folders[section["nvme_path"]])
    load_async_io(setup)
    return drive


def make_cpu_adam(model: torch.nn.Module, setup: Setup) -> torch.optim.Optimizer:
    """Return DeepSpeed's AdamW for host memory, with the parameter groups of every strategy. A collective."""
    load_cpu_adam(setup)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    settings = setup.recipe.optim
    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(
        param_groups(model, settings),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        adamw_mode=True,
    )
    return optimizer
