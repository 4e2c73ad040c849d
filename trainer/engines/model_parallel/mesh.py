"""Tensor × data parallel, with or without ZeRO-1: parts of matrices on neighboring ranks, copies beside them.

The optimizer, the sums over the copies and the norm work on each rank's own part of every tensor
(`Leaf`), which shares its memory with the parameter: torch's optimizers need not support DTensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor

from trainer.engines.base import ReadTensor, Setup
from trainer.engines.dtensors import local_part, part_of
from trainer.engines.model_parallel.grid import DATA, PIPELINE, TENSOR, Grid
from trainer.engines.model_parallel.tensor import Plan, cut, partial_names, planned_numel, tensor_plan
from trainer.engines.optimizer_step import OptimizerStep
from trainer.engines.precision import TORCH_DTYPES
from trainer.optim.optimizers import optimizer_class, restored_state
from trainer.optim.parameter_groups import param_groups

# Bytes of gradients that are summed over the copies in one message; DDP's default.
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Leaf:
    """One parameter as this rank holds it.

    Attributes:
        parameter: of the model; a DTensor if it is cut.
        local: this rank's part of it, in the same memory.
        counted: whether this rank's part counts in the norm: of what several ranks hold whole, only one
            rank's does.
    """

    parameter: torch.nn.Parameter
    local: torch.nn.Parameter
    counted: bool


class MeshEngine(OptimizerStep):
    """A model whose matrices are cut over the ranks of the grid's tensor axis."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        assert setup.grid is not None, "the session opens it"  # noqa: S101
        self.grid: Grid = setup.grid
        super().__init__(model, setup)
        strategy = setup.recipe.strategy
        self.plan: Plan = tensor_plan(model, strategy) if strategy.tensor_parallel > 1 else {}
        self.shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        groups = self._named_groups(model)
        held = self._place(model)
        self.leaves = {name: self._leaf(name, p) for name, p in held.items()}
        self.partial = partial_names(list(self.leaves), self.plan)
        self.optimizer = self._make_optimizer(groups)

    def _place(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Cut the model; return the parameters that this rank holds, wholly or in part."""
        cut(model, self.plan, self.grid.mesh[TENSOR])
        self.parameters = dict(model.named_parameters())
        return self.parameters

    def _leaf(self, name: str, parameter: torch.nn.Parameter) -> Leaf:
        """Return the leaf of a parameter, and hook the gradient of a cut one."""
        sharded = isinstance(parameter, DTensor) and any(p.is_shard() for p in parameter.placements)
        local = parameter
        if isinstance(parameter, DTensor):
            local = torch.nn.Parameter(local_part(parameter.detach()), parameter.requires_grad)
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_keep_own_part)  # type: ignore[no-untyped-call]
        return Leaf(parameter, local, (sharded or self.grid.share == 0) and self._counts(name))

    def _counts(self, name: str) -> bool:
        return True

    def _named_groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's groups of the whole model, with names: every rank has the same."""
        names = {id(p): name for name, p in model.named_parameters()}
        groups = param_groups(model, self.setup.recipe.optim)
        return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in groups]

    def _make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of this rank's leaves."""
        local_groups = [
            {**group, "params": [self.leaves[n].local for n in group["params"] if n in self.leaves]}
            for group in groups
        ]
        local_groups = [group for group in local_groups if group["params"]]
        settings = self.setup.recipe.optim
        make, options = optimizer_class(settings)
        if self.setup.recipe.strategy.shard == "optimizer":
            group = self.grid.mesh.get_group(DATA)
            return ZeroRedundancyOptimizer(local_groups, make, process_group=group, lr=settings.lr, **options)  # type: ignore[arg-type]
        return make(local_groups, lr=settings.lr, **options)

    @property
    def name(self) -> str:
        cut_ = any(isinstance(leaf.parameter, DTensor) for leaf in self.leaves.values())
        zero = isinstance(self.optimizer, ZeroRedundancyOptimizer)
        return " + ".join(
            [*(["DTensor"] if cut_ else []), *([type(self.optimizer).__name__] if zero else [])]
        )

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        yield

    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.loss_scale.scale).backward()  # type: ignore[no-untyped-call]

    def loss_part(self, loss: torch.Tensor) -> torch.Tensor:
        return loss / self.grid.size(TENSOR)  # every rank of the tensor axis computes the same loss

    def take_gradients(self) -> list[torch.Tensor]:
        """Return each leaf's gradient, summed over all ranks that have a part of the sum."""
        for leaf in self.leaves.values():
            if leaf.parameter.requires_grad:
                grad = leaf.parameter.grad
                leaf.local.grad = None if grad is None else local_part(grad).contiguous()
        self._sum_partial()
        grads = [leaf.local.grad for leaf in self.leaves.values() if leaf.local.grad is not None]
        if self.grid.size(DATA) > 1:
            sum_in_buckets(grads, self.grid.mesh.get_group(DATA), self._wire_dtype())
        return grads

    def _sum_partial(self) -> None:
        """Sum the gradients of parameters that see only a part of the heads over the ranks of a matrix."""
        if self.partial:
            grads = [g for n in self.partial if (g := self.leaves[n].local.grad) is not None]
            sum_in_buckets(grads, self.grid.mesh.get_group(TENSOR), torch.float32)

    def gradient_norm(self, grads: list[torch.Tensor]) -> torch.Tensor:
        leaves = (leaf.local.grad for leaf in self.leaves.values() if leaf.counted)
        counted = [grad for grad in leaves if grad is not None]
        square = torch.zeros((), device=self.setup.ranks.device)
        if counted:
            square = torch.stack(torch._foreach_norm(counted)).square().sum()
        for axis in (TENSOR, PIPELINE):
            if self.grid.size(axis) > 1:
                dist.all_reduce(square, group=self.grid.mesh.get_group(axis))
        return square.sqrt()

    def clip(self, grads: list[torch.Tensor], norm: torch.Tensor) -> None:
        """Clip like torch's `clip_grads_with_norm_`."""
        limit = self.setup.recipe.optim.grad_clip
        if limit is not None:
            torch._foreach_mul_(grads, torch.clamp(limit / (norm + 1e-6), max=1.0))

    def clear_gradients(self) -> None:
        for leaf in self.leaves.values():
            leaf.parameter.grad = leaf.local.grad = None

    def _wire_dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.setup.recipe.precision.reduce]

    def world_size(self) -> int:
        return self.grid.size(PIPELINE) * self.grid.size(DATA) * self.grid.size(TENSOR)

    def reduce_dtype(self) -> torch.dtype | None:
        return self._wire_dtype() if self.grid.size(DATA) > 1 else None

    def held_params(self) -> int:
        return sum(leaf.local.numel() for leaf in self.leaves.values())

    def held_grads(self) -> int:
        grads = [leaf.parameter.grad for leaf in self.leaves.values()]
        return sum(local_part(grad).numel() for grad in grads if grad is not None)

    def held_optimizer(self) -> int:
        states = self._updating().state.values()
        return sum(t.numel() for state in states for t in state.values() if t.ndim > 0)

    def most_elements(self, kind: str, parts: int) -> int:
        """Return the elements by the plan.

        `parts` counts parts of the model; the optimizer's share comes on top.
        """
        if parts == 1:
            return super().most_elements(kind, parts)
        wanted = self.parameters if kind == "params" else self.trainable
        tensor = self.grid.size(TENSOR)
        sizes = {name: planned_numel(name, self.shapes[name], self.plan, tensor) for name in wanted}
        most = max(sum(sizes.get(name, 0) for name in names) for names in self._names_by_stage())
        if kind == "optimizer":
            if self.setup.recipe.strategy.shard == "optimizer":
                # Whole tensors are dealt to the copies, the largest first.
                most = -(-most // self.grid.size(DATA)) + max(sizes.values())
            return len(self.elementwise_moments) * most
        return most

    def _names_by_stage(self) -> list[list[str]]:
        return [list(self.parameters)]

    def checksums(self) -> dict[str, float]:
        """Return sums that copies share for each part, and the ranks of a matrix for whole parameters."""
        stage = f"stage {self.grid.stage}"
        sums = {stage: 0.0, f"{stage}, part {self.grid.share}": 0.0}
        for leaf in self.leaves.values():
            key = stage if leaf.local is leaf.parameter else f"{stage}, part {self.grid.share}"
            sums[key] += float(leaf.local.detach().double().sum())
        return sums

    def parameter(self, name: str) -> torch.Tensor:
        leaf = self.leaves.get(name)
        return self._whole(name, None if leaf is None else leaf.local.detach())

    def moment(self, moment: str, name: str) -> torch.Tensor:
        leaf = self.leaves.get(name)
        return self._whole(name, None if leaf is None else self._own_moment(leaf, moment))

    def _own_moment(self, leaf: Leaf, moment: str) -> torch.Tensor:
        """Return the state of this rank's part; under ZeRO-1 from the copy that updates it."""
        state = self._updating().state.get(leaf.local, {})
        own_state = state[moment] if moment in state else torch.zeros_like(leaf.local, requires_grad=False)
        if isinstance(self.optimizer, ZeroRedundancyOptimizer) and self.grid.size(DATA) > 1:
            own_state = own_state.clone()
            group = self.grid.mesh.get_group(DATA)
            dist.broadcast(own_state, group=group, group_src=self._owner(leaf))
        return own_state

    def _whole(self, name: str, local: torch.Tensor | None) -> torch.Tensor:
        """Return the whole of a tensor of which this rank has `local`, on the CPU. A collective."""
        assert local is not None, "every rank holds a part"  # noqa: S101
        return self._gathered(name, local).cpu()

    def _gathered(self, name: str, local: torch.Tensor) -> torch.Tensor:
        parameter = self.leaves[name].parameter
        if not isinstance(parameter, DTensor):
            return local
        return DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        ).full_tensor()

    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        self.optimizer_steps = optimizer_steps
        for name, leaf in self.leaves.items():
            if not leaf.parameter.requires_grad or not self._updates(leaf):
                continue
            updating, settings = self._updating(), self.setup.recipe.optim
            parts = {moment: _part_of(read(moment, name), leaf) for moment in self.moments(name)}
            state = restored_state(settings, updating, leaf.local, parts, optimizer_steps)
            updating.state[leaf.local] = state

    def _updating(self) -> torch.optim.Optimizer:
        """Return the optimizer of this rank."""
        if isinstance(self.optimizer, ZeroRedundancyOptimizer):
            inner: torch.optim.Optimizer = self.optimizer.optim
            return inner
        return self.optimizer

    def _owner(self, leaf: Leaf) -> int:
        """Return which copy updates the leaf."""
        owners: dict[Any, int] = self.optimizer._param_to_rank  # type: ignore[attr-defined]
        return owners[leaf.local]

    def _updates(self, leaf: Leaf) -> bool:
        """Return whether this rank's copy updates the leaf."""
        if not isinstance(self.optimizer, ZeroRedundancyOptimizer):
            return True
        return self._owner(leaf) == self.grid.mesh.get_local_rank(DATA)

    def full_state(self, without: Any = ()) -> dict[str, torch.Tensor]:
        """Return the whole state dict. Names that share a parameter share the tensor."""
        names = {id(p): name for name, p in self.parameters.items()}
        whole, state, buffers = dict[str, torch.Tensor](), dict[str, torch.Tensor](), self.buffers()
        for key, tensor in self.model.state_dict(keep_vars=True).items():
            if key in without:
                continue
            name = names.get(id(tensor))
            if name is None:
                state[key] = buffers[key].detach().cpu()
                continue
            if name not in whole:
                whole[name] = self.parameter(name).clone()
            state[key] = whole[name]
        return state


def sum_in_buckets(tensors: list[torch.Tensor], group: Any, dtype: torch.dtype) -> None:
    """Sum in place over the ranks of the group, in `dtype`, several tensors per message."""
    bucket: list[torch.Tensor] = []
    for number, tensor in enumerate(tensors, 1):
        bucket.append(tensor)
        full = sum(t.nbytes for t in bucket) >= BUCKET_BYTES
        if full or number == len(tensors):
            flat = _flatten_dense_tensors(bucket).to(dtype)  # type: ignore[no-untyped-call]
            dist.all_reduce(flat, group=group)
            parts = _unflatten_dense_tensors(flat, bucket)  # type: ignore[no-untyped-call]
            for target, summed in zip(bucket, parts, strict=True):
                target.copy_(summed)
            bucket = []


def _keep_own_part(parameter: torch.Tensor) -> None:
    """Keep this rank's part of the gradient: that of a cut embedding arrives whole."""
    grad = parameter.grad
    if isinstance(grad, DTensor) and isinstance(parameter, DTensor):
        parameter.grad = grad.redistribute(placements=parameter.placements)


def _part_of(full: torch.Tensor, leaf: Leaf) -> torch.Tensor:
    """Return this rank's part of `full`. No communication: every rank has `full`."""
    if not isinstance(leaf.parameter, DTensor):
        return full.to(leaf.local.device)
    return local_part(part_of(full, leaf.parameter)).contiguous()
