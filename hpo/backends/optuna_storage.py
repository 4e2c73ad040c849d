"""Optuna's storage: a file in the study's folder, or a database."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from galley.errors import ConfigError, Problem


class KernelLock(JournalFileOpenLock):
    """Optuna's own lock is a file, which a killed process leaves for 30 s; the kernel frees this one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The database of the URL, else `optuna.log` of the folder, its unfinished last line cut off.

    Raises `ConfigError` where it cannot be opened or read.
    """
    if url is not None:
        return _open_database(url)
    path = folder / "optuna.log"
    _repair(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), KernelLock(f"{path}.flock")))
    except (ValueError, KeyError) as error:
        hint = "move it away: it is written again from the study's journal"
        raise ConfigError(Problem(str(path), f"cannot be read ({error})", hint)) from error


def _open_database(url: str) -> RDBStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        what = f"cannot be opened: {reason}"
        raise ConfigError(Problem("hpo.storage", what, "sqlite:///FILE, postgresql://…")) from error


def _repair(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
