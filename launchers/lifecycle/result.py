"""How an attempt ended whose processes are gone: its own result, completed from what it left."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

from galley.errors import INTERRUPTED_EXIT_CODE, RunCancelledError, RunFailedError
from galley.rundir import RunFolder, write_atomic
from galley.spec import FINAL_STATES, FailureClass, RankError, RunResult
from launchers.base import Diagnosis, Job

# A mistake in the request, found only by the ranks, ends like one that is found before them.
EXIT_CODES: dict[FailureClass, int] = {"configuration": 2, "data": 2}
# What befalls the ranks that survive another: a lost or silent peer, and being ended for it.
_CONSEQUENCES: frozenset[FailureClass] = frozenset({"node", "hang", "preempted"})


def conclude(job: Job, told: signal.Signals | None = None) -> RunResult:
    """The result of the attempt. `told` is the signal by which this process was asked to end it."""
    own = result_of(job.folder, job.attempt)
    if own is not None and own.state in ("succeeded", "preempted", "cancelled"):
        return own
    base = own or _base(job)
    base = replace(base, attempts=job.attempt, world_size=job.spec.layout.world_size)
    if told is not None:
        code = INTERRUPTED_EXIT_CODE if told == signal.SIGINT else RunCancelledError.exit_code
        return replace(base, state="cancelled", exit_code=code, message=f"cancelled by {told.name}")
    if cancel_mark(job).exists() or job.state() == "cancelled":
        return replace(base, state="cancelled", exit_code=RunCancelledError.exit_code, message="cancelled")
    cause = find_cause(job)
    return replace(
        base,
        state="preempted" if cause.failure_class == "preempted" else "failed",
        exit_code=EXIT_CODES.get(cause.failure_class, RunFailedError.exit_code),
        message=cause.message,
        first_failed_rank=cause.rank,
        failure_class=cause.failure_class,
    )


def find_cause(job: Job) -> Diagnosis:
    """The first failure of an attempt: what a rank wrote, else what the launcher saw.

    A rank that is killed leaves no file, but its peers do when they lose it.
    """
    errors = job.folder.read_rank_errors(job.attempt)
    for error in errors:
        if error.failure_class not in _CONSEQUENCES:
            return _said(error)
    seen = job.diagnose()
    if seen.failure_class == "node" and all(error.failure_class == "preempted" for error in errors):
        return seen  # which is why the ranks were ended
    if errors and (seen.rank is None or seen.rank in {error.rank for error in errors}):
        own = [error for error in errors if error.failure_class != "preempted"]
        return _said((own or errors)[0])
    return seen


def _said(error: RankError) -> Diagnosis:
    return Diagnosis(error.message, error.rank, error.failure_class)


def _base(job: Job) -> RunResult:
    """What is known of an attempt that wrote no result."""
    progress = job.folder.read_progress()
    steps = progress.step if progress is not None and progress.attempt == job.attempt else 0
    wall_s = round(time.time() - job.handle.started_at, 3)
    return RunResult(state="unknown", exit_code=1, steps=steps, wall_s=wall_s)


def result_of(folder: RunFolder, attempt: int) -> RunResult | None:
    """The final result of this attempt, not one that an earlier attempt left."""
    result = folder.read_result()
    final = result is not None and result.state in FINAL_STATES and result.attempts == attempt
    return result if final else None


def cancel_mark(job: Job) -> Path:
    """A file that tells whoever follows the run that its end was asked for."""
    return job.folder.logs(job.attempt) / "cancel"


def mark_cancelled(job: Job) -> None:
    write_atomic(cancel_mark(job), "")
