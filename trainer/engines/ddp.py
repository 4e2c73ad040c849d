"""Engines of torch itself: one process, and replicas with summed gradients (DDP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import _compress_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from galley.strategy.optimizers import KINDS
from trainer.compatibility import make_ddp
from trainer.engines.base import ReadTensor, RepeatableEngine, Setup
from trainer.engines.optimizer_step import OptimizerStep
from trainer.engines.precision import TORCH_DTYPES
from trainer.optim.optimizers import moments, restored_state, state_numel
from trainer.optim.parameter_groups import make_optimizer


class TorchEngine(OptimizerStep):
    """The model as it is, and the optimizer on whole tensors."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        super().__init__(model, setup)
        self.optimizer = make_optimizer(model, setup.recipe.optim)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        yield

    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.loss_scale.scale).backward()  # type: ignore[no-untyped-call]

    def take_gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def gradient_norm(self, grads: list[torch.Tensor]) -> torch.Tensor:
        return get_total_norm(grads)

    def clip(self, grads: list[torch.Tensor], norm: torch.Tensor) -> None:
        limit = self.setup.recipe.optim.grad_clip
        if limit is not None:
            clip_grads_with_norm_(self.parameters.values(), limit, norm)

    def clear_gradients(self) -> None:
        self.optimizer.zero_grad()

    def world_size(self) -> int:
        return 1

    def reduce_dtype(self) -> torch.dtype | None:
        return None

    def held_grads(self) -> int:
        return sum(p.grad.numel() for p in self.parameters.values() if p.grad is not None)

    def held_optimizer(self) -> int:
        states = {name: self.optimizer.state.get(p, {}) for name, p in self.trainable.items()}
        return sum(state[m].numel() for name, state in states.items() if state for m in self.moments(name))

    def most_elements(self, kind: str, parts: int) -> int:
        if kind != "optimizer" or KINDS[self.setup.recipe.optim.kind].elementwise:
            return super().most_elements(kind, parts)
        settings = self.setup.recipe.optim
        return sum(state_numel(settings, self.optimizer, p) for p in self.trainable.values())

    def moments(self, name: str) -> tuple[str, ...]:
        return moments(self.setup.recipe.optim, self.optimizer, self.parameters[name])

    def moment(self, moment: str, name: str) -> torch.Tensor:
        """Return one tensor of the state.

        For a parameter that never had a gradient there is no state: zeros, or an empty tensor.
        """
        parameter = self.parameters[name]
        state = self.optimizer.state.get(parameter)
        if state:
            kept: torch.Tensor = state[moment]
            return kept.cpu()
        elementwise = KINDS[self.setup.recipe.optim.kind].elementwise
        return torch.zeros(parameter.shape if elementwise else (0,))

    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        self.optimizer_steps = optimizer_steps
        for name, parameter in self.trainable.items():
            parts = {m: self._own_part(read(m, name), parameter) for m in self.moments(name)}
            settings = self.setup.recipe.optim
            state = restored_state(settings, self.optimizer, parameter, parts, optimizer_steps)
            self.optimizer.state[parameter] = state

    def _own_part(self, full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return what this rank holds of a tensor of the state."""
        return full.to(parameter.device)


class SingleEngine(TorchEngine, RepeatableEngine):
    """One process, without a wrapper."""

    def discard(self) -> None:
        self.optimizer.zero_grad()
        if self.setup.layout.device == "cuda":
            torch.cuda.empty_cache()


class DdpEngine(TorchEngine):
    """Replicas whose gradients are all-reduced while backward runs."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        super().__init__(model, setup)
        cuda = setup.ranks.device.type == "cuda"
        self.module = self.ddp = make_ddp(
            model,
            # Only statistics that training changes need it, and it costs time in every forward.
            sync_buffers=any(isinstance(m, _BatchNorm) for m in model.modules()),
            device_ids=[setup.ranks.device.index] if cuda else None,
            gradient_as_bucket_view=True,
            init_sync=not setup.replicated,
        )
        self._reduce_dtype = next(p.dtype for p in self.trainable.values())
        if setup.recipe.precision.reduce != "fp32":
            self._reduce_dtype = TORCH_DTYPES[setup.recipe.precision.reduce]
            self.ddp.register_comm_hook(self.ddp.process_group, _average_in(self._reduce_dtype))

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.ddp.no_sync():
                yield

    def backward(self, loss: torch.Tensor) -> None:
        # DDP averages over the ranks, and the loss is this rank's part of a sum: undo the division.
        super().backward(loss * self.world_size())

    def world_size(self) -> int:
        return int(self.ddp.process_group.size())

    def reduce_dtype(self) -> torch.dtype | None:
        return self._reduce_dtype


def _average_in(dtype: torch.dtype) -> Callable[[Any, Any], torch.futures.Future[torch.Tensor]]:
    """Return a DDP hook that averages the gradients in `dtype`.

    DDP refuses torch's own `bf16_compress_hook`, by its name, wherever there is no NCCL.
    """

    def average(group: Any, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        return _compress_hook(dtype, group, bucket)

    average.__annotations__.clear()  # DDP compares them with classes, and ours are strings
    return average
