"""What a user is told where a file cannot be written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from galley.errors import ConfigError, DiskFullError, Problem, RunFailedError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_OF_THE_DISK = NO_ROOM | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


@contextmanager
def writing(where: str) -> Iterator[None]:
    """For what is written before anything is started: raises `ConfigError` that names `where`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(Problem(where, f"cannot be written: {error.strerror}")) from error


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """All that is written inside, or nothing: half a run, or a study, would be in the way of the next one."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def resumable(root: Path) -> Iterator[None]:
    """For what a run, or a sweep, writes while it goes on: raises `DiskFullError` that says what to do."""
    try:
        yield
    except (OSError, DiskFullError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        said = describe(error) if isinstance(error, OSError) else str(error)
        raise DiskFullError(f"{said}\n    make room, then `resume {root}`") from error


def of_the_disk(error: OSError) -> RunFailedError | None:
    """None where the error is rather a mistake of the program."""
    return RunFailedError(describe(error)) if error.errno in _OF_THE_DISK else None


def describe(error: OSError) -> str:
    return f"{error.filename or 'a file'}: {error.strerror}"
