"""Optuna's storage: a file in the study's folder, or a database."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from galley.errors import ConfigError, Problem
from hpo.base import NoAnswerError


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


def check_database(url: str) -> None:
    """Connect to it, no more. Raises `ConfigError` where that fails."""
    from sqlalchemy import create_engine

    with _opening():
        engine = create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _open_database(url: str) -> RDBStorage:
    with _opening():
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # it may have restarted meanwhile


@contextmanager
def _opening() -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, ImportError, ValueError) as error:
        hint = "sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql+pymysql://USER@HOST/DATABASE"
        raise ConfigError(Problem("hpo.storage", f"cannot be opened: {_reason(error)}", hint)) from error


@contextmanager
def answered(storage: BaseStorage) -> Iterator[None]:
    """Raises `NoAnswerError` where its database is gone, for a moment or for good; the next use of it begins
    with a new connection."""
    if not isinstance(storage, RDBStorage):
        yield
        return
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        lost = _lost_connection(error)
        if lost is None:
            raise
        storage.remove_session()
        raise NoAnswerError(f"hpo.storage: {_reason(lost)}") from error


def _lost_connection(error: BaseException | None) -> BaseException | None:
    """What the driver said first. Optuna may hide it behind what came of it: where it reads trials it
    takes any such error for one of SQLite's limits, and goes on in the broken transaction."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    found = None
    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _repair(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.truncate(path.read_bytes().rfind(b"\n") + 1)
