"""Measure the time of half precision on this CPU, relative to fp32: a few milliseconds.

`python -P -m trainer.engines.half_precision` prints `{"bf16": 15.1, "fp16": 17.4}`.
"""

from __future__ import annotations

import json
import logging
import time

import torch

from galley.schema import Dtype
from galley.spec import Device
from galley.system.half_precision import cost_text
from trainer.engines.precision import TORCH_DTYPES

log = logging.getLogger("galley")

_SMALL, _LARGE = (32, 256, 256), (256, 1024, 1024)
_EMULATED = 4.0


def measure(compute: Dtype) -> float:
    """Return the time of the three products of a linear layer (forward and backward) in `compute` over fp32.

    All three, since emulations differ by the order of the operands. Matrix units show only on a
    large product, which is not tried if the small one is far slower already.
    """
    cost = _ratio(compute, _SMALL)
    return cost if cost > _EMULATED else _ratio(compute, _LARGE)


def _ratio(compute: Dtype, shape: tuple[int, int, int]) -> float:
    return _seconds(TORCH_DTYPES[compute], shape) / _seconds(torch.float32, shape)


def _seconds(dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    """Return the shortest of several times, after one that builds the kernels.

    fp32 is fast, and therefore measured more often. The data are constants, so that the run's random numbers
    stay the same.
    """
    rows, wide, out = shape
    x, weight, grad = (
        torch.full(size, 0.5, dtype=dtype) for size in ((rows, wide), (out, wide), (rows, out))
    )
    times = []
    for _ in range(13 if dtype == torch.float32 else 4):
        begin = time.perf_counter()
        torch.mm(x, weight.t())
        torch.mm(grad, weight)
        torch.mm(grad.t(), x)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def warn_if_emulated(compute: Dtype, device: Device, hostname: str) -> None:
    """Log if fp32 would be faster on this node, wherever the run was planned."""
    if device != "cpu" or compute == "fp32":
        return
    cost = measure(compute)
    if cost > 1:
        log.warning("%s on %s: precision=fp32 is faster there", cost_text(compute, cost), hostname)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps({compute: round(measure(compute), 2) for compute in ("bf16", "fp16")}))
