"""ZeRO-3 through DeepSpeed: parameters are partitioned as well, and gathered module by module.

The weights are in the model before it comes here, so that they are the same as under every other strategy.
Between uses a parameter is empty; `ds_tensor` is this rank's part of it, padded at the end, and
`ds_shape` and `ds_numel` describe the whole.

Optimizer state is kept in sub-groups of parameters, each one flat tensor per kind. State on an NVMe drive is
empty between uses, and `_in_memory` reads it as a whole.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainer.engines.base import ReadTensor, Setup
from trainer.engines.deepspeed.zero import ZeroEngine


class Zero3Engine(ZeroEngine):
    """A `DeepSpeedEngine` of stage 3; parameters and optimizer may be in host memory, or on a drive."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        self._read: tuple[int, dict[str, torch.Tensor]] | None = None
        super().__init__(model, setup)
        if self.zero.swap_optimizer:
            keep_gradients(self.zero.optimizer_swapper)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self._read = None
        with super().micro_batch(last):
            yield

    def flat_parts(self) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = self.zero.fp32_partitioned_groups_flat
        return parts

    def held_params(self) -> int:
        return sum(_part_numel(p) + p.numel() for p in self.parameters.values())

    def held_grads(self) -> int:
        infos = self._swapped().values()
        waiting: int = sum(grad.numel() for info in infos for grad in info.unswapped_gradients.values())
        return super().held_grads() + waiting

    def held_optimizer(self) -> int:
        swapped: int = sum(info.numel() * (info.num_tensors() - 1) for info in self._swapped().values())
        return super().held_optimizer() + swapped

    def misplaced(self) -> list[str]:
        """Describe what is not on the drive. DeepSpeed keeps every part of less than 1 MiB in memory."""
        on_drive = [p for p in self.parameters.values() if _on_drive(p)]
        files = {
            "offload_optimizer": [
                path for info in self._swapped().values() for path in info.get_swap_paths()
            ],
            "offload_params": [_zero(p).nvme_swapper.get_path(p, must_exist=True) for p in on_drive],
        }
        return [
            f"{key}=nvme, but nothing is on the drive: every part is smaller than 1 MiB"
            for key, paths in files.items()
            if getattr(self.setup.recipe.strategy, key) == "nvme"
            and not any(Path(path).stat().st_size for path in paths)
        ]

    def kept_whole(self) -> int:
        return sum(_zero(p).ds_numel for p in self.parameters.values() if _zero(p).ds_persist)

    def full_numel(self, parameter: torch.nn.Parameter) -> int:
        numel: int = _zero(parameter).ds_numel
        return numel

    def full_shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        return tuple(_zero(parameter).ds_shape)

    def parameter(self, name: str) -> torch.Tensor:
        return _gathered(self.parameters[name])

    def full_state(self, without: Container[str] = ()) -> dict[str, torch.Tensor]:
        tensors = self.model.state_dict(keep_vars=True)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in without}
        wanted = {id(tensor) for tensor in tensors.values()}
        gathered = {id(p): _gathered(p) for p in self.parameters.values() if id(p) in wanted}
        return {name: gathered.get(id(t), t).detach().cpu() for name, t in tensors.items()}

    def reading_order(self) -> list[str]:
        return sorted(self.trainable, key=lambda name: self._place(self.parameters[name]))

    def moment(self, moment: str, name: str) -> torch.Tensor:
        parameter = self.parameters[name]
        number, start, numel = self._place(parameter)
        if not self._is_swapped(number):
            return super().moment(moment, name)
        part = self._moments_of(number)[moment].narrow(0, start, numel)
        full: torch.Tensor = self.zero._fp32_state_allgather(parameter, part.to(self.setup.ranks.device))
        return full.cpu()

    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        """Load one sub-group at a time.

        DeepSpeed's own setter (0.19.8) takes no value whose parts are padded.
        """
        self.optimizer_steps = optimizer_steps
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        for number, flat in enumerate(self.flat_parts()):
            with self._in_memory(number):
                state = self.zero.optimizer.state[flat]
                state.update(self._count(flat))
                for parameter in self.zero.fp16_groups[number]:
                    for moment in self.elementwise_moments:
                        self._load_part(parameter, state[moment], read(moment, names[id(parameter)]))

    def _load_part(self, parameter: torch.nn.Parameter, state: torch.Tensor, full: torch.Tensor) -> None:
        """Copy this rank's part of `full` into the flat state of a sub-group."""
        _, start, numel = self._place(parameter)
        first = numel * self.zero._get_param_partition_rank(parameter)
        rank_part = full.flatten()[first : first + numel]
        state[start : start + len(rank_part)].copy_(rank_part)

    def _place(self, parameter: torch.nn.Parameter) -> tuple[int, int, int]:
        """Return the sub-group, and in its flat tensors the first element and the number of elements."""
        place: tuple[int, int, int] = self.zero.grad_position[self.zero.get_param_id(parameter)]
        return place

    def _is_swapped(self, number: int) -> bool:
        """Return whether a sub-group's state is on the drive."""
        swapped: bool = self.zero._swappable_optimizer_subgroup(number)
        return swapped

    def _swapped(self) -> dict[str, Any]:
        """Return DeepSpeed's records of the sub-groups that are on the drive."""
        return self.zero.optimizer_swapper.swap_params_info if self.zero.swap_optimizer else {}

    @contextmanager
    def _in_memory(self, number: int) -> Iterator[None]:
        """Enclose a change of a sub-group's state: read it from the drive, and write it back."""
        if self._is_swapped(number):
            self.zero._optimizer_states_and_gradient_swap_in(number)
            yield
            self.zero._optimizer_states_and_gradient_swap_out(number)
        else:
            yield

    def _moments_of(self, number: int) -> dict[str, torch.Tensor]:
        """Return copies of a sub-group's moments.

        Those of the last sub-group are kept until training goes on.
        """
        if self._read is None or self._read[0] != number:
            self._read = None
            self.zero._optimizer_states_and_gradient_swap_in(number)
            state = self.zero.optimizer.state[self.flat_parts()[number]]
            self._read = number, {moment: state[moment].clone() for moment in self.elementwise_moments}
            self.zero._release_swap_buffers(number)
        return self._read[1]

    def _link_state(self) -> None:
        """Do nothing: parameters find their part of the state by its position."""


def keep_gradients(swapper: Any) -> None:
    """Keep gradients in host memory, where DeepSpeed has a buffer for all of them in any case.

    DeepSpeed 0.19.8 writes gradients of 1 MiB and more to the drive, and reads them to the beginning of a
    buffer instead of their place in it: all parameters of a sub-group but the first would be updated with
    shifted gradients.
    """

    def keep(parameter: Any, gradient_offsets: list[int], gradient_tensors: list[torch.Tensor]) -> None:
        info = swapper.swap_params_info.get(swapper.parameter_id(parameter))
        if info is not None:
            info.unswapped_gradients.update(zip(gradient_offsets, gradient_tensors, strict=True))

    swapper.swap_out_gradients = keep


def _zero(parameter: torch.Tensor) -> Any:
    """Return the parameter as an object with the attributes that DeepSpeed adds."""
    return parameter


def _on_drive(parameter: torch.Tensor) -> bool:
    return bool(_zero(parameter).ds_tensor.final_location == "nvme")


def _part_numel(parameter: torch.Tensor) -> int:
    """Return the elements of this rank's part, in memory or on the drive."""
    part = _zero(parameter).ds_tensor
    numel: int = part.ds_numel if _on_drive(parameter) else part.numel()
    return numel


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a copy of the whole parameter, on the CPU. A collective."""
    from deepspeed import zero

    with zero.GatheredParameters([parameter]):
        return parameter.detach().to("cpu", copy=True)
