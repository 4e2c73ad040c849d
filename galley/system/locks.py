"""Locks between processes: the kernel's (`flock`), which end with the process that holds them.

The only module that imports fcntl. Whether they reach across a network file system is up to that file system.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_AGAIN_S = 0.01

File = IO[str] | int
"""An open file, or its descriptor."""


def lock(file: File, *, shared: bool = False) -> None:
    """Take the lock of an open file. Wait for whoever holds it."""
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def lock_at_once(file: File, *, shared: bool = False, within_s: float = 0.0) -> None:
    """Take the lock. Raises `BlockingIOError` if another process holds it for longer than `within_s`."""
    end = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def unlock(file: File) -> None:
    """Let go of the lock, which closing the file does as well."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is made if there is none. Wait for whoever holds it."""
    with path.open("a") as stream:
        lock(stream)
        yield
