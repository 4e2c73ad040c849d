"""One command a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from galley.errors import SubmissionError
from galley.rundir import RunFolder
from galley.system.locks import lock_at_once


@contextmanager
def hold(folder: RunFolder) -> Iterator[None]:
    """Keep other commands from launching this folder; the kernel lets go when this process ends.

    Raises:
        SubmissionError: another command holds it.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with (folder.root / ".lock").open("a+") as stream:
        try:
            lock_at_once(stream)
        except BlockingIOError as error:
            stream.seek(0)
            raise SubmissionError(
                f"{folder.root}: process {stream.read().strip() or '?'} is running it already; "
                f"follow it with `logs {folder.root} --follow`"
            ) from error
        stream.truncate(0)
        with suppress(OSError):  # a courtesy, for which a full disk has no room
            os.write(stream.fileno(), f"{os.getpid()}\n".encode())
        yield
