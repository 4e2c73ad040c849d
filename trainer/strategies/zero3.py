"""ZeRO-3 through DeepSpeed: parameters are partitioned as well, and gathered module by module.

The weights are in the model before it comes here, so that they are those of every other strategy.
Between uses a parameter is empty; `ds_tensor` is this rank's part of it, padded at the end, and
`ds_shape` and `ds_numel` are the whole's.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from trainer.strategies.zero import ZeroEngine


class Zero3Engine(ZeroEngine):
    """A `DeepSpeedEngine` of stage 3; parameters and optimizer may live in host memory."""

    def flat_parts(self) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = self.zero.fp32_partitioned_groups_flat
        return parts

    def held_params(self) -> int:
        return sum(_zero(p).ds_tensor.numel() + p.numel() for p in self.parameters.values())

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

    def _load_moment(self, parameter: torch.nn.Parameter, moment: str, full: torch.Tensor) -> None:
        """DeepSpeed's own setter (0.19.8) takes no value whose parts are padded."""
        part, _ = self.zero._get_fp32_opt_state_partition(parameter, False, moment)
        start = part.numel() * self.zero._get_param_partition_rank(parameter)
        own = full.flatten()[start : start + part.numel()]
        part[: own.numel()].copy_(own)

    def _link_state(self) -> None:
        """Parameters find their part of the state by its position."""


def _zero(parameter: torch.Tensor) -> Any:
    """The parameter with the attributes that DeepSpeed gives it."""
    return parameter


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy of the whole, on the CPU. A collective."""
    from deepspeed import zero

    with zero.GatheredParameters([parameter]):
        return parameter.detach().to("cpu", copy=True)
