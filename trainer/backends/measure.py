"""Measure how fast groups reduce, side by side, and advise if oneCCL is the slower one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

MIB = 2**20


def all_reduce_ms(
    groups: Mapping[str, Any], num_bytes: int, rounds: int, warm_up: int = 2
) -> dict[str, float]:
    """Return the median milliseconds of one fp32 all-reduce in each group, the groups taking turns.

    A collective over every group. The first `warm_up` rounds do not count.
    """
    tensor = torch.ones(max(1, num_bytes // 4))
    taken: dict[str, list[float]] = {name: [] for name in groups}
    for round_ in range(warm_up + rounds):
        for name, group in groups.items():
            started = time.perf_counter()
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
            if round_ >= warm_up:
                taken[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def advise(ours: Any, gloo: Any, sizes: Sequence[int] = (4 * MIB,), rounds: int = 5) -> str:
    """Measure for a tenth of a second; return the advice of `slower_than_gloo`, else "". A collective."""
    by_size = {}
    for size in sizes:
        taken = all_reduce_ms({"ccl": ours, "gloo": gloo}, size, rounds)
        by_size[size] = (taken["ccl"], taken["gloo"])
    return slower_than_gloo(by_size) or ""


def slower_than_gloo(milliseconds: Mapping[int, tuple[float, float]]) -> str | None:
    """Return advice from measured all-reduces, `{bytes: (ccl ms, gloo ms)}`; None if oneCCL is no slower.

    The largest size decides, since it is that of DDP's buckets.
    """
    size = max(milliseconds)
    ours, gloo = milliseconds[size]
    if ours <= gloo:
        return None
    return (
        f"oneCCL is {ours / gloo:.1f} times slower than gloo here: {ours:.1f} ms against {gloo:.1f} ms"
        f" for an all-reduce of {size / MIB:g} MiB; strategy=ddp runs on gloo"
    )
