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
from galley.rundir import RunFolder
from galley.spec import FINAL_STATES, RunHandle, RunResult, RunSpec, State
from galley.system.os_errors import NO_ROOM, describe
from launchers.base import Launcher
from launchers.lifecycle.result import conclude, mark_cancelled

END_RANKS_AFTER_S = 1.5  # after the first failure is seen: time for the other ranks to say theirs
CANCEL_AFTER_S = 3.0
FAILED_GRACE_S = 0.5
LOST_AFTER_S = 600.0  # a scheduler that answers nothing about the job for so long has lost it


class Watch:
    """One submitted attempt.

    Attributes:
        handle: of the attempt that the job is at: a scheduler may have started it again.
        state: as of the last look.
    """

    def __init__(self, launcher: Launcher, handle: RunHandle, folder: RunFolder, spec: RunSpec) -> None:
        self.handle = handle
        self.state: State = "queued"
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

    @property
    def end_descriptor(self) -> int | None:
        """As `Launcher.end`."""
        return self._launcher.end(self.handle)

    def has_ended(self) -> bool:
        """One look: whether the attempt has ended, or is to be taken down because a rank failed."""
        return self._job_ended() if self.remote else self._processes_ended()

    def take_down(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End every process of the attempt that is left, with the recipe's grace where none has failed."""
        grace_s = self._spec.recipe.launcher.grace_s if self._failed_at is None else FAILED_GRACE_S
        self._launcher.cancel(self.handle, self._folder, grace_s, hurry)
        self.handle = self._launcher.current(self.handle, self._folder)

    def conclude(self, told: signal.Signals | None = None) -> RunResult:
        """How the attempt ended, whose processes are gone; written to its folder.

        Raises `DiskFullError` where there is no room for that.
        """
        result = conclude(self._launcher, self.handle, self._folder, self._spec, told)
        try:
            self._folder.write_result(result)
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
            mark_cancelled(self._folder, self.handle.attempt)
        self._launcher.cancel(self.handle, self._folder, grace_s)
        return self.conclude()

    def _processes_ended(self) -> bool:
        launcher, handle, folder = self._launcher, self.handle, self._folder
        self.state = launcher.poll(handle, folder)
        if self.state not in ("queued", "running"):
            return True
        now = time.monotonic()
        if self._failed_at is None and self._has_failed():
            self._failed_at = now
        failed_s = 0.0 if self._failed_at is None else now - self._failed_at
        if failed_s > CANCEL_AFTER_S:
            return True
        if failed_s > END_RANKS_AFTER_S:
            launcher.end_ranks(handle, folder)
        return False

    def _has_failed(self) -> bool:
        """Whether a rank has failed and the others have to be ended."""
        handle, folder = self.handle, self._folder
        failed = bool(folder.read_rank_errors(handle.attempt)) or self._launcher.failing(handle, folder)
        return failed and not self._launcher.outlives_failures(self._spec)

    def _job_ended(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at < self._launcher.poll_s:
            return False
        self.state, self._asked_at = self._launcher.poll(self.handle, self._folder), now
        self._heard_at = self._heard_at if self.state == "unknown" else now
        self.handle = self._launcher.current(self.handle, self._folder)
        return self.state in FINAL_STATES or now - self._heard_at > LOST_AFTER_S
