"""Tensors of which each rank holds a part, and those of which it does not, alike."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, in the same memory; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(full: torch.Tensor, like: DTensor) -> DTensor:
    """This rank's part of `full`, laid out as `like`. No communication: every rank has `full`."""
    full = full.to(like.device)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
