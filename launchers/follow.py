"""Following a submitted attempt to its end, whatever that end is, and writing down how it ended.

Guarantees: when `follow` returns, no process of the attempt lives and `result.json` is that of
this attempt. A `succeeded` result of the attempt is never replaced. A job that a scheduler owns is
ended by Ctrl-C alone: another signal, or an error, ends the following.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from galley.display import Display
from galley.errors import INTERRUPTED_EXIT_CODE, GalleyError, RunCancelledError, RunFailedError
from galley.rundir import RunFolder, write_atomic
from galley.spec import FINAL_STATES, FailureClass, RankError, RunHandle, RunResult, RunSpec, State
from launchers.base import Diagnosis, Launcher

POLL_S = 0.1
END_RANKS_AFTER_S = 1.5  # after the first failure is seen: time for the other ranks to say theirs
CANCEL_AFTER_S = 3.0
LOST_AFTER_S = 600.0  # a scheduler that answers nothing about the job for so long has lost it

# A mistake in the request, found only by the ranks, ends like one that is found before them.
EXIT_CODES: dict[FailureClass, int] = {"configuration": 2, "data": 2}
# What befalls the ranks that survive another: a lost or silent peer, and being ended for it.
_CONSEQUENCES: frozenset[FailureClass] = frozenset({"node", "hang", "preempted"})


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


def follow(
    launcher: Launcher,
    handle: RunHandle,
    folder: RunFolder,
    spec: RunSpec,
    display: Display,
    interrupts: Interrupts,
) -> RunResult:
    """Watch the attempt until all its processes have ended; returns, and has written, its result.

    Raises:
        LeftRunningError: this process was asked to end, the job was not.
    """
    grace_s = spec.recipe.launcher.grace_s
    if launcher.remote:
        handle = _await_job(launcher, handle, folder, display, interrupts, grace_s)
    else:
        await_processes(launcher, handle, folder, display, interrupts, grace_s)
    display.update()
    result = conclude(launcher, handle, folder, spec, interrupts)
    folder.write_result(result)
    return result


def _await_job(
    launcher: Launcher,
    handle: RunHandle,
    folder: RunFolder,
    display: Display,
    interrupts: Interrupts,
    grace_s: float,
) -> RunHandle:
    """Until the scheduler says that the job has ended; returns the handle of its last attempt."""
    state: State = "queued"
    asked_at, heard_at = -math.inf, time.monotonic()
    while not interrupts.requested():
        now = time.monotonic()
        if now - asked_at >= launcher.poll_s:
            state, asked_at = launcher.poll(handle, folder), now
            heard_at = heard_at if state == "unknown" else now
            handle = launcher.current(handle, folder)
            if state in FINAL_STATES or now - heard_at > LOST_AFTER_S:
                return handle
        display.update(queued=state == "queued")
        time.sleep(POLL_S)
    if signal.SIGINT not in interrupts.received:
        raise LeftRunningError(
            f"{folder.root} goes on as job {handle.job}; see `status`, `logs --follow` and `cancel`"
        )
    launcher.cancel(handle, folder, grace_s, interrupts.insisted)
    return launcher.current(handle, folder)


def await_processes(
    launcher: Launcher,
    handle: RunHandle,
    folder: RunFolder,
    display: Display,
    interrupts: Interrupts,
    grace_s: float,
) -> None:
    """Until the attempt has ended by itself, or by a request, or because one of its ranks failed."""
    failed_at: float | None = None
    try:
        while not interrupts.requested() and launcher.poll(handle, folder) in ("queued", "running"):
            display.update()
            if failed_at is None and has_failed(launcher, handle, folder):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > CANCEL_AFTER_S:
                break
            if failed_at is not None and time.monotonic() - failed_at > END_RANKS_AFTER_S:
                launcher.end_ranks(handle, folder)
            time.sleep(POLL_S)
    finally:
        launcher.cancel(handle, folder, grace_s if failed_at is None else 0.5, interrupts.insisted)


def has_failed(launcher: Launcher, handle: RunHandle, folder: RunFolder) -> bool:
    """Whether a rank has failed and the others have to be ended."""
    if not (folder.read_rank_errors(handle.attempt) or launcher.failing(handle, folder)):
        return False
    return not launcher.outlives_failures(folder.read_spec())


def conclude(
    launcher: Launcher, handle: RunHandle, folder: RunFolder, spec: RunSpec, interrupts: Interrupts
) -> RunResult:
    """How an attempt ended whose processes are gone: its own result, completed from what it left."""
    own = result_of(folder, handle.attempt)
    if own is not None and own.state in ("succeeded", "preempted", "cancelled"):
        return own
    base = own or _base(handle, folder, spec)
    base = replace(base, attempts=handle.attempt, world_size=spec.layout.world_size)
    if interrupts.requested():
        name = interrupts.received[0].name
        by_key = name == "SIGINT"
        code = INTERRUPTED_EXIT_CODE if by_key else RunCancelledError.exit_code
        return replace(base, state="cancelled", exit_code=code, message=f"cancelled by {name}")
    if cancel_mark(folder, handle.attempt).exists() or launcher.poll(handle, folder) == "cancelled":
        return replace(base, state="cancelled", exit_code=RunCancelledError.exit_code, message="cancelled")
    cause = find_cause(launcher, handle, folder)
    return replace(
        base,
        state="preempted" if cause.failure_class == "preempted" else "failed",
        exit_code=EXIT_CODES.get(cause.failure_class, RunFailedError.exit_code),
        message=cause.message,
        first_failed_rank=cause.rank,
        failure_class=cause.failure_class,
    )


def find_cause(launcher: Launcher, handle: RunHandle, folder: RunFolder) -> Diagnosis:
    """The first failure of an attempt: what a rank wrote, else what the launcher saw.

    A rank that is killed leaves no file, but its peers do when they lose it.
    """
    errors = folder.read_rank_errors(handle.attempt)
    for error in errors:
        if error.failure_class not in _CONSEQUENCES:
            return _said(error)
    seen = launcher.diagnose(handle, folder)
    if seen.failure_class == "node" and all(error.failure_class == "preempted" for error in errors):
        return seen  # which is why the ranks were ended
    if errors and (seen.rank is None or seen.rank in {error.rank for error in errors}):
        own = [error for error in errors if error.failure_class != "preempted"]
        return _said((own or errors)[0])
    return seen


def _said(error: RankError) -> Diagnosis:
    return Diagnosis(error.message, error.rank, error.failure_class)


def _base(handle: RunHandle, folder: RunFolder, spec: RunSpec) -> RunResult:
    """What is known of an attempt that wrote no result."""
    progress = folder.read_progress()
    steps = progress.step if progress is not None and progress.attempt == handle.attempt else 0
    wall_s = round(time.time() - handle.started_at, 3)
    return RunResult(state="unknown", exit_code=1, steps=steps, wall_s=wall_s)


def result_of(folder: RunFolder, attempt: int) -> RunResult | None:
    """The final result of this attempt, not one that an earlier attempt left."""
    result = folder.read_result()
    final = result is not None and result.state in FINAL_STATES and result.attempts == attempt
    return result if final else None


def cancel_mark(folder: RunFolder, attempt: int) -> Path:
    """A file that tells whoever follows the run that its end was asked for."""
    return folder.logs(attempt) / "cancel"


def mark_cancelled(folder: RunFolder, attempt: int) -> None:
    write_atomic(cancel_mark(folder, attempt), "")
