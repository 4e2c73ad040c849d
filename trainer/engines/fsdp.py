"""FSDP2: parameters, gradients and optimizer state as parts of tensors (`fully_shard`).

Driven directly: Accelerate's support for it has no CPU. The parts are fp32 and the forward runs under
autocast, as with every engine. Weights are gathered in the compute format: half the bytes on the network,
and nothing for autocast to cast. The backward would keep the cast copies of every layer on every rank.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from galley.errors import ConfigError, Problem
from trainer.engines.base import Setup, whole_state
from trainer.engines.ddp import TorchEngine
from trainer.engines.dtensors import local_part, part_of
from trainer.engines.precision import TORCH_DTYPES
from trainer.engines.wrapping import modules_to_wrap


class FsdpEngine(TorchEngine):
    """A model whose parameters are `DTensor`s on a mesh of the ranks."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        self.mesh = make_mesh(setup)
        strategy = setup.recipe.strategy
        efficient = strategy.cpu_ram_efficient_loading
        if strategy.sync_module_states:
            sent = model.buffers() if efficient else (*model.parameters(), *model.buffers())
            send_from_main(sent, setup.ranks.device)
        named = model.named_parameters() if efficient and setup.ranks.is_main else ()
        read = {name: parameter.detach() for name, parameter in named}

        policy: dict[str, Any] = {
            "mesh": self.mesh,
            "reshard_after_forward": strategy.reshard_after_forward,
            "mp_policy": mixed_precision(setup),
            "offload_policy": _offload(setup),
        }
        wrapped: set[Any] = {fully_shard(module, **policy) for module in modules_to_wrap(model, strategy)}
        self.sharded = fully_shard(model, **policy)

        if efficient:
            scatter_from_main(model, read, setup)
        if hasattr(model, "generate"):  # `generate` calls parts of the model, not its forward
            register_fsdp_forward_method(model, "generate")
        if strategy.engine_options.get("forward_prefetch", False):
            prefetch_next([m for m in model.modules() if m in wrapped], strategy.wrap)
        super().__init__(model, setup)

    @property
    def name(self) -> str:
        return FSDPModule.__name__ if isinstance(self.model, FSDPModule) else type(self.model).__name__

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self.sharded.set_requires_gradient_sync(last)
        self.sharded.set_is_last_backward(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        # FSDP averages over the ranks, and the loss is this rank's part of a sum: undo the division.
        super().backward(loss * self.world_size())

    def world_size(self) -> int:
        return self.mesh.size()

    def reduce_dtype(self) -> torch.dtype | None:
        dtype: torch.dtype | None = self.sharded._get_fsdp_state()._mp_policy.reduce_dtype
        return dtype

    def held_params(self) -> int:
        return sum(local_part(p).numel() for p in self.parameters.values())

    def held_grads(self) -> int:
        return sum(local_part(p.grad).numel() for p in self.parameters.values() if p.grad is not None)

    def held_optimizer(self) -> int:
        states = self.optimizer.state.values()
        return sum(local_part(t).numel() for state in states for t in state.values() if t.ndim > 0)

    def parameter(self, name: str) -> torch.Tensor:
        return _full(self.parameters[name].detach())

    def moment(self, moment: str, name: str) -> torch.Tensor:
        parameter = self.parameters[name]
        state = self.optimizer.state.get(parameter)
        return _full(state[moment]) if state else torch.zeros(parameter.shape)

    def _own_part(self, full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
        return part_of(full, cast("DTensor", parameter.data))

    def full_state(self, without: Container[str] = ()) -> dict[str, torch.Tensor]:
        return whole_state(self.model, without, _full)

    def largest_part(self, parameter: torch.nn.Parameter, parts: int) -> int:
        """Return the rows of the largest part, in elements.

        Parameters are cut along their first dimension: of a matrix of 2 rows, 3 ranks hold 1, 1 and 0.
        """
        rows = parameter.shape[0] if parameter.ndim else 1
        return -(-rows // parts) * (parameter.numel() // max(1, rows))


def mixed_precision(setup: Setup) -> MixedPrecisionPolicy:
    """Return FSDP's policy. Inputs keep their format between the layers, as under autocast alone."""
    return MixedPrecisionPolicy(
        param_dtype=TORCH_DTYPES[setup.recipe.precision.dtype],
        reduce_dtype=TORCH_DTYPES[setup.recipe.precision.reduce],
        cast_forward_inputs=False,
    )


def scatter_from_main(model: torch.nn.Module, read: dict[str, torch.Tensor], setup: Setup) -> None:
    """Send every rank its part of what the main rank has `read`, one parameter at a time. A collective.

    The whole tensor on the other ranks is never written, so that it takes no memory on a CPU.
    """
    device = setup.ranks.device
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part = cast("DTensor", parameter.data)
            full = read.pop(name).to(device) if read else torch.empty(part.shape, device=device)
            received = distribute_tensor(full, part.device_mesh, part.placements, src_data_rank=0)
            local_part(part).copy_(local_part(received))


def send_from_main(tensors: Iterable[torch.Tensor], device: torch.device) -> None:
    """Send the main rank's tensors to every rank, by way of the device. A collective."""
    with torch.no_grad():
        for tensor in tensors:
            sent = tensor.to(device)  # the tensor itself if it is on the device already
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def prefetch_next(layers: list[Any], wrap: str) -> None:
    """Let each layer gather the next one while it computes.

    Raises `ConfigError` if the wrapped modules are not layers: only layers are in the order of their use.
    """
    if wrap != "layers":
        what = f"needs layers in the order of their use, not wrap={wrap}"
        raise ConfigError(Problem("strategy.engine_options.forward_prefetch", what, "strategy.wrap=layers"))
    for layer, following in pairwise(layers):
        layer.set_modules_to_forward_prefetch([following])


def make_mesh(setup: Setup) -> DeviceMesh:
    """Return one axis over all ranks, or (replicate, shard) for HSDP. The layout has checked the groups."""
    strategy, layout = setup.recipe.strategy, setup.layout
    if not strategy.hybrid:
        return init_device_mesh(layout.device, (layout.world_size,), mesh_dim_names=("shard",))
    size = strategy.hybrid_shard_size or layout.procs_per_node
    shape = (layout.world_size // size, size)
    return init_device_mesh(layout.device, shape, mesh_dim_names=("replicate", "shard"))


def _offload(setup: Setup) -> OffloadPolicy:
    """Return FSDP's offload policy. Raises `ConfigError` for a combination that FSDP lacks."""
    strategy = setup.recipe.strategy
    params, optimizer = strategy.offload_params, strategy.offload_optimizer
    if params == optimizer == "none":
        return OffloadPolicy()
    if not params == optimizer == "cpu":
        what = f"fsdp cannot keep parameters on {params}, optimizer state on {optimizer}"
        raise ConfigError(Problem("strategy.offload_params", what, "valid: both cpu, or both none"))
    return CPUOffloadPolicy(pin_memory=strategy.offload_pin_memory and setup.layout.device == "cuda")


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor on the CPU. A collective if the tensor is sharded."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.cpu()
