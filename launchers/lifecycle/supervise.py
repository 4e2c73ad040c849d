"""Following a submitted attempt to its end, whatever that end is, and writing down how it ended.

Guarantees: when `follow` returns, no process of the attempt lives and `result.json` is that of
this attempt. A `succeeded` result of the attempt is never replaced. A job that a scheduler owns is
ended by Ctrl-C alone: another signal, or an error, ends the following.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from galley.errors import INTERRUPTED_EXIT_CODE, GalleyError
from galley.report.display import Display
from galley.spec import RunResult
from launchers.base import Job
from launchers.lifecycle.attempt_monitor import Watch

POLL_S = 0.1


class LeftRunningError(GalleyError):
    """The command ends, the job goes on."""

    exit_code = INTERRUPTED_EXIT_CODE


@dataclass
class Interrupts:
    """Requests to end that this process received, in order."""

    received: list[signal.Signals] = field(default_factory=list)

    def requested(self) -> bool:
        return bool(self.received)

    def insisted(self) -> bool:
        """A second request: no more grace."""
        return len(self.received) > 1


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of dying of them; what was ignored stays so (nohup)."""
    caught = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        caught.received.append(signal.Signals(number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, note)
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(job: Job, display: Display, interrupts: Interrupts) -> RunResult:
    """Watch the attempt until all its processes have ended; returns, and has written, its result.

    Raises:
        LeftRunningError: this process was asked to end, the job was not.
    """
    watch = Watch(job)
    await_end(watch, display, interrupts)
    told = interrupts.received[0] if interrupts.requested() else None
    if watch.remote and told is not None:
        if signal.SIGINT not in interrupts.received:
            name = watch.job.handle.job
            raise LeftRunningError(
                f"{job.folder.root} goes on as job {name}; see `status`, `logs --follow` and `cancel`"
            )
        watch.take_down(interrupts.insisted)
    display.update()
    return watch.conclude(told)


def await_end(watch: Watch, display: Display, interrupts: Interrupts) -> None:
    """Until the attempt has ended by itself, or by a request, or because one of its ranks failed.

    Whatever happens, no process of it that is this machine's own lives afterwards.
    """
    try:
        while not interrupts.requested() and not watch.has_ended():
            display.update(queued=watch.state == "queued")
            time.sleep(POLL_S)
    finally:
        if not watch.remote:
            watch.take_down(interrupts.insisted)
