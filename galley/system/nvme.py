"""State that lives on an NVMe drive: what asks for it, and what a machine needs for it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

from galley.errors import Problem
from galley.schema import Strategy

SUB_GROUP_SIZE = 100_000_000
"""Elements of optimizer state that are in memory at once, unless `sub_group_size` says otherwise."""
STATE_BUFFERS, PARAM_BUFFERS = 4, 5
"""Host buffers of DeepSpeed: of one sub-group (weights, gradients, moments), and of one parameter each."""


def kept_on_drive(strategy: Strategy) -> list[str]:
    """The keys that ask for it."""
    devices = {"offload_optimizer": strategy.offload_optimizer, "offload_params": strategy.offload_params}
    return [f"strategy.{key}" for key, device in devices.items() if device == "nvme"]


def has_libaio() -> bool:
    """Whether a program can be linked with libaio here: the name without a version is the one of -dev."""
    try:
        ctypes.CDLL("libaio.so")
    except OSError:
        return False
    return True


def drive_problems(strategy: Strategy, libaio: bool) -> Iterator[Problem]:
    """Why state cannot live on a drive of this machine."""
    keys = kept_on_drive(strategy)
    if not keys:
        return
    if not libaio:
        what = "nvme: DeepSpeed reads and writes the drive with libaio, which is not here"
        hint = "apt-get install libaio-dev; or choose strategy=zero3_offload"
        yield Problem(", ".join(keys), what, hint)
    path = strategy.offload_nvme_path
    if path is not None and not Path(path).expanduser().is_dir():
        yield Problem(
            "strategy.offload_nvme_path", f"'{path}' is not a folder here", "a folder on the NVMe drive"
        )
