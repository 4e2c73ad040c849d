"""Bind a process' memory to the NUMA nodes of its cores (Linux): `numactl --membind`, from inside."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Collection

_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}  # <asm/unistd.h>
_MPOL_BIND = 2  # <linux/mempolicy.h>


def bind_memory(nodes: Collection[int]) -> str:
    """Take memory only from these nodes from now on; return why that was refused, empty if it was not.

    Binding cores without memory is slower than binding neither: a page on the other socket is twice as far
    away.
    """
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None or not nodes:
        return f"{platform.machine()} has no such call known here"
    most = max(nodes) + 1
    words = (ctypes.c_ulong * (most // 64 + 1))()
    for node in nodes:
        words[node // 64] |= 1 << node % 64

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    # The kernel reads one bit less than `maxnode`, hence the + 1.
    done = syscall(
        ctypes.c_long(number), ctypes.c_int(_MPOL_BIND), words, ctypes.c_ulong(len(words) * 64 + 1)
    )
    return "" if done == 0 else os.strerror(ctypes.get_errno())
