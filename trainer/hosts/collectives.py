"""Collectives that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def gather_rows(own: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, in their order, on every rank; ranks may have different numbers of rows.

    The gradient of a row is the sum of what all ranks' losses say about it, so that ranks whose losses
    are summed get the gradient of one process with all rows. A collective, as its backward pass is.
    """
    if not dist.is_initialized():
        return own
    gathered: torch.Tensor = _GatherRows.apply(own)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        sizes = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
        rows = [int(size) for size in sizes]
        padded = own.new_zeros(max(rows), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        first = sum(rows[: dist.get_rank()])
        ctx.own = slice(first, first + len(own))
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.own]
