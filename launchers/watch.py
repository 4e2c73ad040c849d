"""Following several attempts at once: each is looked at in turn, and none waits for another.

`launchers.follow` is the same for one attempt, with a display.
"""

from __future__ import annotations

import math
import time

from galley.rundir import RunFolder
from galley.spec import FINAL_STATES, RunHandle, RunResult, RunSpec
from launchers.base import Launcher
from launchers.follow import (
    CANCEL_AFTER_S,
    END_RANKS_AFTER_S,
    LOST_AFTER_S,
    Interrupts,
    conclude,
    has_failed,
    mark_cancelled,
)


class Watch:
    """One submitted attempt."""

    def __init__(self, launcher: Launcher, handle: RunHandle, folder: RunFolder, spec: RunSpec) -> None:
        self.handle = handle
        self._launcher = launcher
        self._folder = folder
        self._spec = spec
        self._failed_at: float | None = None
        self._asked_at = -math.inf
        self._heard_at = time.monotonic()

    @property
    def remote(self) -> bool:
        """Whether a scheduler owns the job."""
        return self._launcher.remote

    def step(self) -> RunResult | None:
        """How the attempt ended, once no process of it lives; written to its folder. Returns at once.

        Cheap: call it as often as there is something to see.
        """
        if not (self._job_ended() if self._launcher.remote else self._processes_ended()):
            return None
        result = conclude(self._launcher, self.handle, self._folder, self._spec, Interrupts())
        self._folder.write_result(result)
        return result

    def end(self, grace_s: float) -> RunResult:
        """End it now. Its result is `cancelled`, unless it had ended by itself."""
        mark_cancelled(self._folder, self.handle.attempt)
        self._launcher.cancel(self.handle, self._folder, grace_s)
        result = conclude(self._launcher, self.handle, self._folder, self._spec, Interrupts())
        self._folder.write_result(result)
        return result

    def _processes_ended(self) -> bool:
        """As `follow.await_processes`, one look at a time."""
        launcher, handle, folder = self._launcher, self.handle, self._folder
        if launcher.poll(handle, folder) not in ("queued", "running"):
            launcher.cancel(handle, folder, 0.5)  # what outlived the first process
            return True
        now = time.monotonic()
        if self._failed_at is None and has_failed(launcher, handle, folder):
            self._failed_at = now
        if self._failed_at is not None and now - self._failed_at > CANCEL_AFTER_S:
            launcher.cancel(handle, folder, 0.5)
            return True
        if self._failed_at is not None and now - self._failed_at > END_RANKS_AFTER_S:
            launcher.end_ranks(handle, folder)
        return False

    def _job_ended(self) -> bool:
        """As `follow` waits for a scheduler's job, one look at a time."""
        now = time.monotonic()
        if now - self._asked_at < self._launcher.poll_s:
            return False
        state, self._asked_at = self._launcher.poll(self.handle, self._folder), now
        self._heard_at = self._heard_at if state == "unknown" else now
        self.handle = self._launcher.current(self.handle, self._folder)
        return state in FINAL_STATES or now - self._heard_at > LOST_AFTER_S
