"""Optuna's storage: a file in the study's folder, or a database."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from galley.errors import ConfigError, Problem
from galley.system.locks import lock
from galley.urls import cleaned
from hpo.backends.base import NoAnswerError

_NOT_FOUND = "Record does not exist."  # the message of Optuna's storages for a deleted study or trial


class KernelLock(JournalFileOpenLock):
    """A lock of the kernel on Optuna's log, which ends with its process.

    Optuna's own lock is a file, which a killed process leaves for 30 s. Whoever gets this lock removes an
    unfinished last line of a killed writer. Raises `FileNotFoundError` if the log is no longer the same file
    as at first.
    """

    def __init__(self, log: Path) -> None:
        super().__init__(str(log))
        self._log = log
        self._inode: int | None = None
        self._descriptor = -1

    def acquire(self) -> bool:
        path = f"{self._log}.flock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        lock(self._descriptor)
        try:
            self._see_the_same_file()
            _repair(self._log)
        except OSError:
            self.release()
            raise
        return True

    def _see_the_same_file(self) -> None:
        """Raise `FileNotFoundError` if the log was replaced or removed."""
        inode = self._log.stat().st_ino
        if self._inode not in (None, inode):
            raise FileNotFoundError(errno.ENOENT, "it was replaced by another file", str(self._log))
        self._inode = inode

    def release(self) -> None:
        os.close(self._descriptor)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Return the database of the URL, else `optuna.log` of the folder, without an unfinished last line.

    Raises `ConfigError` if it cannot be opened or read, `NoAnswerError` if a database does not
    answer.
    """
    if url is not None:
        return _open_database(url)
    path = folder / "optuna.log"
    lock = KernelLock(path)
    try:
        path.touch()
        lock.acquire()
        lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock))
    except (ValueError, KeyError, OSError) as error:
        hint = "move it away: it is written again from the study's journal"
        raise ConfigError(Problem(str(path), f"cannot be read ({error})", hint)) from error


def look_into(url: str, name: str) -> tuple[dict[str, Any], list[str]] | None:
    """Return user attributes and directions of the study of this name in a database; None if there is none.

    Writes no table. Raises `ConfigError` if the database cannot be opened or read.
    """
    from sqlalchemy import create_engine, inspect

    with _opening(url):
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                has_studies = inspect(connection).has_table("studies")
        finally:
            engine.dispose()
    return _read_study(url, name) if has_studies else None


def _read_study(url: str, name: str) -> tuple[dict[str, Any], list[str]] | None:
    """Read the study from a database that has Optuna's tables."""
    with _opening(url):
        storage = RDBStorage(url, skip_table_creation=True)
    try:
        with _opening(url):
            study = storage.get_study_id_from_name(name)
            ways = [way.name.lower() for way in storage.get_study_directions(study)]
            return storage.get_study_user_attrs(study), ways
    except KeyError:
        return None
    finally:
        close_storage(storage)


def _open_database(url: str) -> RDBStorage:
    """Open a database, and create Optuna's tables if need be."""
    # Optuna warns, with the SQL statement, before it tries another way. Only a final failure matters.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    with _opening(url), answered("hpo.storage", url):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # the database may restart meanwhile


def close_storage(storage: BaseStorage) -> None:
    """Close the storage's connections."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _opening(url: str) -> Iterator[None]:
    """Turn an error of opening into a `ConfigError`."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError, ValueError, RuntimeError) as error:
        hint = "sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql+pymysql://USER@HOST/DATABASE"
        what = f"cannot be opened: {cleaned(_reason(error), url)}"
        raise ConfigError(Problem("hpo.storage", what, hint)) from error


@contextmanager
def answered(where: str, url: str | None = None) -> Iterator[None]:
    """Raise `NoAnswerError` if a storage is gone, for a moment or for good, or its study is.

    `url`: of a database, whose credentials no message repeats.

    Every error of a database counts as no answer: the storage holds nothing that cannot be written again.
    """
    try:
        yield
    except KeyError as error:
        if error.args != (_NOT_FOUND,):
            raise
        raise NoAnswerError(f"{where}: the study is not there any more") from error
    except _storage_errors() as error:
        reason = cleaned(_reason(_first_word(error)), url)
        raise NoAnswerError(f"{where}: {reason}") from error


def _storage_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of storages. Only called after an error: the import takes a third of a second."""
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError, StorageInternalError, OSError)


def _first_word(error: BaseException) -> BaseException:
    """Return the driver's first error.

    Optuna may hide it behind a later one: when it reads trials, it takes any such error for one of SQLite's
    limits, and continues in the broken transaction.
    """
    from sqlalchemy.exc import DBAPIError

    first, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, DBAPIError):
            first = cause
        cause = cause.__cause__ or cause.__context__
    return first


def _reason(error: BaseException) -> str:
    """Return the error in one line, without the statement that failed."""
    text = error.strerror if isinstance(error, OSError) else getattr(error, "orig", None)
    return str(text or error).partition("\n")[0]


def _repair(path: Path) -> None:
    """Cut off a last line without its end, which a killed writer left."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.truncate(path.read_bytes().rfind(b"\n") + 1)
