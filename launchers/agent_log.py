"""What torchrun's agents wrote: which rank failed first, and how."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from galley import proc
from launchers.base import Diagnosis

# What the agent writes when it takes the surviving ranks down. It gives them 30 s, which no option
# shortens in this case.
_CLOSING = re.compile(rb"Sending process \d+ closing signal")
_LINE = re.compile(r"^(?:[IWE]\d{4} \S+ \d+ torch/distributed|galley: a rank ended)", re.MULTILINE)
_FAILURE = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)")
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 20


def is_closing(log: Path) -> bool:
    """Whether an agent is taking its surviving ranks down."""
    return _CLOSING.search(_tail(log)) is not None


def read_failures(log: Path) -> list[tuple[int, int]]:
    """(rank, exit code) of every failure in the agents' reports."""
    return [(int(rank), int(code)) for rank, code in _FAILURE.findall(_tail(log).decode(errors="replace"))]


def diagnose(failures: list[tuple[int, int]], log: Path) -> Diagnosis:
    """From (rank, exit code) pairs, the first observed failure last, as the agent reports them.

    A rank that a signal ended is the cause of what befell the others, unless the signal is the
    SIGTERM or SIGKILL by which the survivors were ended: those come after the first failure.
    """
    said = _quote(_tail(log).decode(errors="replace"))
    if not failures:
        return Diagnosis("the processes ended without a result" + said)
    killed = [pair for pair in failures if pair[1] < 0 and -pair[1] not in (signal.SIGTERM, signal.SIGKILL)]
    rank, code = killed[-1] if killed else failures[-1]
    if code >= 0:
        how = f"ended with {proc.describe_exit(code)}" if code else "ended without a result"
        return Diagnosis(f"rank {rank} {how}{said}", rank)
    hint = " (when memory runs out the kernel does this: see `dmesg`)" if -code == signal.SIGKILL else ""
    return Diagnosis(f"rank {rank} was {proc.describe_exit(code)}{hint}", rank, "node")


def _tail(log: Path) -> bytes:
    """The end of a log, where the agent's own report is; empty before there is one."""
    if not log.exists():
        return b""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return stream.read()


def _quote(said: str) -> str:
    """The last lines that the processes wrote, without the agent's banner."""
    first = _LINE.search(said)
    lines = said[: first.start() if first else None].strip().splitlines()[-_TAIL_LINES:]
    return "; they said:\n" + "\n".join(lines) if lines else ""
