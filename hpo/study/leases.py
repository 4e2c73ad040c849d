"""Leases, which show which controllers of a study live.

Each controller locks a file of its own as long as its process lives, and the kernel releases it, however
the process ends: no clock decides, and a controller that was only stopped has not lost its trials.
Controllers on several machines need a file system whose locks work across machines, such as NFS.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from galley.errors import SubmissionError
from galley.system.locks import lock_at_once


class Lease:
    """The lease of this controller.

    Attributes:
        name: this controller's name in the journal.
        is_alone: whether no other controller lived when the lease was taken.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lease. Removes the files of dead controllers: call it while no other lease is being taken.

        Raises `SubmissionError` if the file system has no locks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if not is_held(folder, path.name):
                path.unlink(missing_ok=True)
        self.is_alone = not any(folder.iterdir())
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._path = folder / self.name
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock_at_once(self._descriptor)
        except OSError as error:
            raise SubmissionError(f"{folder}: cannot be locked: {error.strerror}") from error

    def release(self) -> None:
        """Give the lease back."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_held(folder: Path, name: str) -> bool:
    """Return whether the controller of this name lives. One without a name does not."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC) if name else -1
    except FileNotFoundError:
        return False
    if descriptor < 0:
        return False
    try:
        # A shared lock: two processes that ask at the same time must not take each other for the holder.
        lock_at_once(descriptor, shared=True)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_of_this_machine(name: str) -> bool:
    """Return whether the controller of this name ran on this machine."""
    return name.rsplit("-", 2)[0] == socket.gethostname()
