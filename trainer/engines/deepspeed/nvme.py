"""The folder on an NVMe drive that one run keeps state in.

Every run has one of its own, `galley-nvme-XXXXXXXX`, below the folder that the recipe names. The first rank
of each node holds a lock on it (the kernel's, which ends with its process): a folder whose lock nobody
holds was left by a run that was killed, and the next run on the drive removes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from galley.errors import ConfigError, DiskFullError
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
        """Remove the folders; all ranks must have done with them."""
        if self._owner:
            for folder in self.folders.values():
                shutil.rmtree(folder, ignore_errors=True)
            for lock in self._locks:
                os.close(lock)


def _claim(folder: Path, needed: int) -> int:
    """Make the folder; returns the open lock."""
    guard = _lock(folder.parent / f".{PREFIX}{LOCK}", wait=True)  # nobody sees a folder before its lock
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
    try:
        lock = _lock(folder / LOCK, wait=False)
    except BlockingIOError:
        return  # a run lives in it
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _lock(path: Path, wait: bool) -> int:
    """Raises `BlockingIOError` where another process holds it and there is to be no waiting."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor
