"""Collectives that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def gather_rows(local_rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks, in their order, on every rank. Ranks may have different numbers of rows.

    The gradient of a row is the sum over the losses of all ranks, so that ranks whose losses
    are summed get the gradient of one process with all rows. A collective, and so is its backward pass.
    """
    if not dist.is_initialized():
        return local_rows
    gathered: torch.Tensor = _GatherRows.apply(local_rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    """The gather, and its backward: sum the gradients over the ranks and keep this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local_rows: torch.Tensor) -> torch.Tensor:
        sizes = [
            torch.zeros(1, dtype=torch.int64, device=local_rows.device) for _ in range(dist.get_world_size())
        ]
        dist.all_gather(sizes, torch.tensor([len(local_rows)], device=local_rows.device))
        rows = [int(size) for size in sizes]
        # `all_gather` needs equal shapes: pad to the most rows, and cut again below.
        padded = local_rows.new_zeros(max(rows), *local_rows.shape[1:])
        padded[: len(local_rows)] = local_rows
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        first = sum(rows[: dist.get_rank()])
        ctx.own = slice(first, first + len(local_rows))
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.own]
