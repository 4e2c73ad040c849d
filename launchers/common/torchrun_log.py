"""What torchrun's agents wrote: which rank failed first, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from galley.system import proc
from launchers.base import Diagnosis

# What the agent writes when it takes the surviving ranks down, before the signal. It gives them 30 s,
# which no option shortens in this case.
_CLOSING = re.compile(r"Sending process (\d+) closing signal")
_LINE = re.compile(r"^(?:[IWE]\d{4} \S+ \d+ torch/distributed|galley: )", re.MULTILINE)
_FAILURE = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+) \(pid: (\d+)\)")
_TAIL_BYTES = 1024 * 1024  # three lines for each of some thousand ranks
_TAIL_LINES = 20


@dataclass(frozen=True)
class Failure:
    """The end of a rank, as an agent saw it.

    Attributes:
        exit_code: negative for the signal that ended the rank.
        was_told: it ended after the agent had sent it a signal, for the failure of another.
    """

    rank: int
    exit_code: int
    was_told: bool


def is_closing(log: Path) -> bool:
    """Whether an agent is taking its surviving ranks down."""
    return _CLOSING.search(_tail(log)) is not None


def read_failures(log: Path) -> list[Failure]:
    """Every failure in the agents' reports, in their order."""
    said = _tail(log)
    told = set(_CLOSING.findall(said))
    return [Failure(int(rank), int(code), pid in told) for rank, code, pid in _FAILURE.findall(said)]


def diagnose(failures: list[Failure], log: Path) -> Diagnosis:
    """From failures, the first observed one last, as the agent reports them.

    A rank that a signal ended is the cause of what befell the others, unless it was told to end. The
    order does not tell: the agent looks at its ranks in turn, and at their times in whole seconds.
    """
    said = _quote(_tail(log))
    if not failures:
        return Diagnosis("the processes ended without a result" + said)
    killed = [failure for failure in failures if failure.exit_code < 0 and not failure.was_told]
    first = (killed or failures)[-1]
    rank, code = first.rank, first.exit_code
    if code >= 0:
        how = f"ended with {proc.describe_exit(code)}" if code else "ended without a result"
        return Diagnosis(f"rank {rank} {how}{said}", rank)
    hint = " (when memory runs out the kernel does this: see `dmesg`)" if -code == SIGKILL else ""
    return Diagnosis(f"rank {rank} was {proc.describe_exit(code)}{hint}", rank, "node")


def _tail(log: Path) -> str:
    """The end of a log, where the agent's own report is; empty before there is one."""
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return stream.read().decode(errors="replace")


def _quote(said: str) -> str:
    """The last lines that the processes wrote, without the agent's banner."""
    first = _LINE.search(said)
    lines = said[: first.start() if first else None].strip().splitlines()[-_TAIL_LINES:]
    return "; they said:\n" + "\n".join(lines) if lines else ""
