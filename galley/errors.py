"""The errors that a user can meet, and their exit codes. Narrower ones derive from them where they arise.

    GalleyError
    ├── ConfigError         2   the request is wrong; nothing was written or started
    │   └── DataError           the data cannot be used
    ├── SubmissionError     3   the launcher or the scheduler refused
    ├── RunFailedError      4   the job started and did not succeed
    │   ├── CheckpointError     a checkpoint is incomplete, corrupt or of another model
    │   └── DiskFullError       no room for the next file; what was written before is intact
    └── RunCancelledError   5   somebody cancelled it

An interrupt of the command itself exits with 130. A message says what, where, the valid values
and the next step; a user's mistake never shows a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INTERRUPTED_EXIT_CODE = 130


class GalleyError(Exception):
    """Base of all errors that are shown to the user as a message, without a traceback."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One mistake of a request.

    Attributes:
        where: the override, or `file:line`, or the key that carries the mistake.
        what: the mistake in one sentence.
        hint: the valid values, the nearest name or the next step; empty if there is none.
        among: further keys that have a part in it: the mistake is shown where the last of them was set.
    """

    where: str
    what: str
    hint: str = ""
    among: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}"
        return f"{head}\n    {self.hint}" if self.hint else head


class ConfigError(GalleyError):
    """The request is wrong. Carries every problem that was found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(ConfigError):
    """The data cannot be used; every problem found is listed."""


class SubmissionError(GalleyError):
    """The launcher or the scheduler refused, or cannot be reached."""

    exit_code = 3


class RunFailedError(GalleyError):
    """The job started and did not succeed."""

    exit_code = 4


class CheckpointError(RunFailedError):
    """A checkpoint is incomplete, corrupt, or belongs to another model."""


class DiskFullError(RunFailedError):
    """There is no room for the next file; what was written before is intact."""


class RunCancelledError(GalleyError):
    """The run was cancelled before its end."""

    exit_code = 5


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?` for the valid name closest to `name`, or an empty string."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""


def valid_values(name: str, valid: Iterable[str]) -> str:
    """The nearest name, if there is one, and the list of all valid names."""
    # "valid: none" would read as if nothing were valid, but `none` is a value: it comes last.
    names = sorted(valid, key=lambda one: one == "none")
    listing = f"valid: {', '.join(names)}" if names else "there is none"
    if names == ["none"]:
        listing = "the one valid value is 'none'"
    guess = nearest(name, names)
    return f"{guess} {listing}" if guess else listing
