"""ControlFiles to a living run, made by putting an empty file into its folder (`touch RUN/SAVE`).

    SAVE      save a checkpoint, and train on
    PREEMPT   save a checkpoint, and end: the run is to be continued (Slurm's script makes this one)
    KILL      save a checkpoint, and end: somebody wants the run to stop

A file is looked for where a row of metrics is due, so that a request costs no step anything, and
is removed once it is obeyed. Whoever may write into the folder may make one.
"""

from __future__ import annotations

from dataclasses import dataclass

from galley.errors import RunCancelledError, RunFailedError
from galley.rundir import RunFolder
from galley.spec import State
from trainer.hosts.ranks import Ranks


@dataclass(frozen=True)
class ControlFile:
    """What a file of this name asks for, besides a checkpoint.

    Attributes:
        ends_as: the state and exit code in which the run ends; null trains on.
    """

    name: str
    ends_as: tuple[State, int] | None = None


# Where there are several, the first is obeyed.
REQUESTS = (
    ControlFile("KILL", ("cancelled", RunCancelledError.exit_code)),
    ControlFile("PREEMPT", ("preempted", RunFailedError.exit_code)),
    ControlFile("SAVE"),
)


class ControlFiles:
    """The requests to one run. `read` and `done` are for all ranks alike; the main rank looks."""

    def __init__(self, folder: RunFolder, ranks: Ranks) -> None:
        self._root = folder.root
        self._ranks = ranks

    def read(self) -> ControlFile | None:
        """A collective: the same answer on every rank."""
        found = [number for number, request in enumerate(REQUESTS) if (self._root / request.name).exists()]
        number = self._ranks.from_main(found[0] if found else None)
        return None if number is None else REQUESTS[number]

    def done(self, request: ControlFile) -> None:
        if self._ranks.is_main:
            (self._root / request.name).unlink(missing_ok=True)
