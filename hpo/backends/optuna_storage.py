"""Optuna's storage: a file in the study's folder, or a database."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from galley.errors import ConfigError, Problem


class KernelLock(JournalFileOpenLock):
    """Optuna's own lock is a file, which a killed process leaves for 30 s; the kernel frees this one.

    Whoever gets it cuts off a last line that a killed writer left without its end.
    """

    def __init__(self, log: Path) -> None:
        super().__init__(str(log))
        self._log = log
        self._descriptor = -1

    def acquire(self) -> bool:
        path = f"{self._log}.flock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        _repair(self._log)
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
    lock = KernelLock(path)
    lock.acquire()
    lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock))
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
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.truncate(path.read_bytes().rfind(b"\n") + 1)
