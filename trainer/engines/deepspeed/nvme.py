"""The folder on an NVMe drive in which one run keeps state.

Every run has its own folder, `galley-nvme-XXXXXXXX`, below the one that the recipe names. The first rank
of each node holds a lock on it (the kernel's, which ends with its process). If nobody holds the lock of a
folder, a killed run left the folder, and the next run on the drive removes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from galley.errors import ConfigError, DiskFullError
from galley.system.locks import lock, lock_at_once
from galley.system.nvme import drive_problems, has_libaio
from trainer.engines.base import Setup

PREFIX, LOCK = "galley-nvme-", "lock"


class Drive:
    """This run's part of the drives at `paths`. Opening it is a collective.

    Raises:
        ConfigError: there is no such folder, or no libaio.
        DiskFullError: a drive has less than `needed` bytes free.
    """

    def __init__(self, paths: set[str], needed: int, setup: Setup) -> None:
        problems = list(drive_problems(setup.recipe.strategy, has_libaio()))
        if problems:
            raise ConfigError(problems)
        name = PREFIX + setup.ranks.from_main(secrets.token_hex(4))
        self.folders = {path: Path(path).expanduser() / name for path in paths}
        self._owner = setup.ranks.facts.is_local_main
        self._locks: list[int] = []
        with setup.ranks.main_first():
            if self._owner:
                self._locks = [_claim(folder, needed) for folder in self.folders.values()]

    def close(self) -> None:
        """Remove the folders. No rank may use them any more."""
        if self._owner:
            for folder in self.folders.values():
                shutil.rmtree(folder, ignore_errors=True)
            for lock in self._locks:
                os.close(lock)


def _claim(folder: Path, needed: int) -> int:
    """Create the folder; return its open lock."""
    # Held until the folder's lock exists: another run would take a folder without a lock for abandoned.
    guard = _lock(folder.parent / f".{PREFIX}{LOCK}", wait=True)
    try:
        for lock in folder.parent.glob(f"{PREFIX}*/{LOCK}"):
            _remove_abandoned(lock.parent)
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            message = f"disk full: the ranks of this machine keep {needed} bytes on the drive"
            raise DiskFullError(f"{message}, and {folder.parent} has {free} bytes free")
        folder.mkdir()
        return _lock(folder / LOCK, wait=False)
    finally:
        os.close(guard)


def _remove_abandoned(folder: Path) -> None:
    """Remove the folder unless a living run holds its lock."""
    try:
        lock = _lock(folder / LOCK, wait=False)
    except BlockingIOError:
        return  # a living run uses it
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _lock(path: Path, wait: bool) -> int:
    """Take the lock. Raises `BlockingIOError` if another process holds it and `wait` is false."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock(descriptor) if wait else lock_at_once(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor
