"""Huge pages for what a server holds (Linux): a fork then copies, and an end of a run frees, one entry of
the page table in place of 512.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

_HUGE = 2 << 20
_MADV_COLLAPSE = 25  # <asm-generic/mman-common.h>, Linux 6.1
_PRIVATE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p 0+ 00:00 0 +(?:\[heap\])?$")


def collapse() -> int:
    """Ask for huge pages under all private memory that no file backs; returns the bytes that have them.

    0 where the kernel has no such call. Nothing but speed changes.
    """
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    done = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = _PRIVATE.match(line)
        if found is None:
            continue
        first, last = -(-int(found[1], 16) // _HUGE) * _HUGE, int(found[2], 16) // _HUGE * _HUGE
        for start in range(first, last, _HUGE):
            done += _HUGE * (madvise(start, _HUGE, _MADV_COLLAPSE) == 0)
    return done
