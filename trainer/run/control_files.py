"""Control files: requests to a living run, made by an empty file in its folder (`touch RUN/SAVE`).

    SAVE      save a checkpoint, and train on
    PREEMPT   save a checkpoint, and end: the run is to be continued (Slurm's script makes this one)
    KILL      save a checkpoint, and end: somebody wants the run to stop

The main rank looks for a file whenever a row of metrics is due, so that the other steps cost nothing.
The file is removed once its request is carried out. Whoever may write into the folder may make one.
"""

from __future__ import annotations

from dataclasses import dataclass

from galley.errors import RunCancelledError, RunFailedError
from galley.rundir import RunFolder
from galley.spec import State
from trainer.hosts.ranks import Ranks


@dataclass(frozen=True)
class ControlFile:
    """What a file of this name requests, besides a checkpoint.

    Attributes:
        name: the file's name in the run folder.
        ends_as: the state and exit code with which the run ends; None if it trains on.
    """

    name: str
    ends_as: tuple[State, int] | None = None


# In order of priority: if there are several files, the first of this list counts.
REQUESTS = (
    ControlFile("KILL", ("cancelled", RunCancelledError.exit_code)),
    ControlFile("PREEMPT", ("preempted", RunFailedError.exit_code)),
    ControlFile("SAVE"),
)


class ControlFiles:
    """The control files of one run. All ranks call `read` and `done`; only the main rank looks at files."""

    def __init__(self, folder: RunFolder, ranks: Ranks) -> None:
        self._root = folder.root
        self._ranks = ranks

    def read(self) -> ControlFile | None:
        """Return the pending request, the same on every rank; None if there is none. A collective."""
        present = [number for number, request in enumerate(REQUESTS) if (self._root / request.name).exists()]
        number = self._ranks.from_main(present[0] if present else None)
        return None if number is None else REQUESTS[number]

    def done(self, request: ControlFile) -> None:
        """Remove the request's file. Call it once the checkpoint is complete."""
        if self._ranks.is_main:
            (self._root / request.name).unlink(missing_ok=True)
