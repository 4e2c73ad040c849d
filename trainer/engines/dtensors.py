"""Handle DTensors, of which each rank holds a part, and plain tensors alike."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part, in the same memory; the tensor itself if it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(full: torch.Tensor, like: DTensor) -> DTensor:
    """Return this rank's part of `full`, laid out like `like`. No communication: every rank has `full`."""
    full = full.to(like.device)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
