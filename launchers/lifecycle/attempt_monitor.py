"""What becomes of a submitted attempt, one look at a time: nothing here waits.

`launchers.lifecycle.supervise` looks at one attempt until it has ended, a sweep at several in turn.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from galley.errors import DiskFullError
from galley.spec import FINAL_STATES, RunResult, State
from galley.system.os_errors import NO_ROOM, describe
from launchers.base import Job
from launchers.lifecycle.result import conclude, mark_cancelled

END_RANKS_AFTER_S = 1.5  # after the first failure is seen: time for the other ranks to say theirs
CANCEL_AFTER_S = 3.0
FAILED_GRACE_S = 0.5
LOST_AFTER_S = 600.0  # a scheduler that answers nothing about the job for so long has lost it


class Watch:
    """One submitted attempt.

    Attributes:
        job: at the attempt that it is at: a scheduler may have started it again.
        state: as of the last look.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.state: State = "queued"
        self._failed_at: float | None = None
        self._asked_at = -math.inf
        self._heard_at = time.monotonic()

    @property
    def remote(self) -> bool:
        """Whether a scheduler owns the job."""
        return self.job.remote

    @property
    def end_descriptor(self) -> int | None:
        """As `Launcher.end`."""
        return self.job.end_descriptor

    def has_ended(self) -> bool:
        """One look: whether the attempt has ended, or is to be taken down because a rank failed."""
        return self._job_ended() if self.remote else self._processes_ended()

    def take_down(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End every process of the attempt that is left, with the recipe's grace where none has failed."""
        grace_s = self.job.spec.recipe.launcher.grace_s if self._failed_at is None else FAILED_GRACE_S
        self.job.cancel(grace_s, hurry)
        self.job = self.job.current()

    def conclude(self, told: signal.Signals | None = None) -> RunResult:
        """How the attempt ended, whose processes are gone; written to its folder.

        Raises `DiskFullError` where there is no room for that.
        """
        result = conclude(self.job, told)
        try:
            self.job.folder.write_result(result)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFullError(f"{describe(error)} ({result.message})") from error
        return result

    def step(self) -> RunResult | None:
        """How the attempt ended, once no process of it lives. Cheap: call it as often as you like."""
        if not self.has_ended():
            return None
        if not self.remote:
            self.take_down()
        return self.conclude()

    def end(self, grace_s: float) -> RunResult:
        """End it now. Its result is `cancelled`, unless it had ended by itself."""
        with suppress(OSError):  # it is ended all the same
            mark_cancelled(self.job)
        self.job.cancel(grace_s)
        return self.conclude()

    def _processes_ended(self) -> bool:
        self.state = self.job.state()
        if self.state not in ("queued", "running"):
            return True
        now = time.monotonic()
        if self._failed_at is None and self.job.has_failed_rank():
            self._failed_at = now
        failed_s = 0.0 if self._failed_at is None else now - self._failed_at
        if failed_s > CANCEL_AFTER_S:
            return True
        if failed_s > END_RANKS_AFTER_S:
            self.job.end_ranks()
        return False

    def _job_ended(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at < self.job.launcher.poll_s:
            return False
        self.state, self._asked_at = self.job.state(), now
        self._heard_at = self._heard_at if self.state == "unknown" else now
        self.job = self.job.current()
        return self.state in FINAL_STATES or now - self._heard_at > LOST_AFTER_S
