"""A child process that ends with its parent, whatever ends that (Linux: prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """From now on the kernel sends this process `signum` when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)


def adopt_orphans() -> None:
    """From now on a process below this one whose parent ends is a child of this one, which has to wait for
    it. The children do not inherit it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def bound_to_me(signum: int = signal.SIGKILL) -> Callable[[], None]:
    """What a child of this process calls right after its fork to die with it.

    It ends the child at once where this process has gone in between. It imports and loads nothing,
    since after a fork of a process with threads another thread may hold the import lock for ever.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def bind() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:
            os._exit(1)

    return bind
