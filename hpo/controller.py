"""The loop of a sweep: slots that are refilled as their trials end, without a barrier.

All that it knows is in the journal. It may be killed at any time: the next controller reads the
journal, adopts the trials that the last one left running, and continues to exactly as many trials. If the
study is shared, the next controller may be running already.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from galley.errors import (
    INTERRUPTED_EXIT_CODE,
    ConfigError,
    DiskFullError,
    GalleyError,
    RunCancelledError,
    SubmissionError,
)
from galley.rundir import RunFolder
from galley.spec import FailureClass, RunResult
from galley.system import proc
from hpo.arrays import recall_last_array, start_array
from hpo.backends.base import NoAnswerError
from hpo.objectives import judge, measure
from hpo.population import drop_spent
from hpo.pruning.base import Pruner
from hpo.study.event_log import Cancelled, Ended, Retried
from hpo.study.shared_study import Ledger
from hpo.study.state import Study
from hpo.study.values import Params, Trial, TrialState
from hpo.trials import Slot, TrialRuns, end_all
from launchers.base import JobArrays
from launchers.lifecycle.attempt_monitor import Watch
from launchers.lifecycle.supervise import Interrupts

log = logging.getLogger("galley")

POLL_S = 0.05
# Failures that another attempt may avoid -> whether the attempt counts against `hpo.retries`.
RETRIED: dict[FailureClass, bool] = {"node": True, "hang": True, "preempted": False, "disk_full": True}
# Memory runs out because of the point, not of the attempt: another attempt would fail, too.
INFEASIBLE: frozenset[FailureClass] = frozenset({"oom"})
ASK_AGAIN_S = 10.0  # after a scheduler, or the storage of a backend, did not answer
_BACKOFF_S = 2.0  # wait after the second failure of a trial; twice as long after each further one


class InterruptedSweepError(GalleyError):
    """The command was interrupted; the sweep can be resumed."""

    exit_code = INTERRUPTED_EXIT_CODE


@dataclass
class Active:
    """A trial in a slot.

    Attributes:
        pruned: the reason to end it early; empty if there is none.
        not_before: `time.monotonic()` of the next attempt to end it.
    """

    number: int
    slot: Slot
    watch: Watch
    pruned: str = ""
    not_before: float = 0.0


class Controller:
    """Runs a study to its end. The caller holds the study's lock."""

    def __init__(
        self,
        ledger: Ledger,
        pruner: Pruner,
        interrupts: Interrupts,
        show: Callable[[Study, list[int]], None] = lambda study, running: None,
    ) -> None:
        self._ledger = ledger
        self._study = study = ledger.study
        self._pruner = pruner
        self._interrupts = interrupts
        self._show = show
        self._runs = TrialRuns(study)
        self._grace_s = study.begun.recipe.launcher.grace_s
        self._arrays = self._runs.arrays
        slots = of = study.hpo.parallel
        if self._arrays is not None:
            slots = min(study.target or self._arrays.most, self._arrays.most)
        self._free = deque(Slot(number, of) for number in range(slots))
        self._active: list[Active] = []
        self._waiting: list[tuple[float, int]] = []  # (not before, trial) to be started again
        self._exhausted = False
        self._silent_until = 0.0  # `time.monotonic()` before which the backend is not asked
        self._said: set[str] = set()  # warnings already logged: what to repair; "" if it does not answer

    def run(self) -> None:
        """Run until every trial has ended.

        Raises:
            DiskFullError: a trial has no room for its next file, and no other would have.
            RunCancelledError: somebody cancelled the study.
            InterruptedSweepError: this process was asked to end.
        """
        try:
            if self._arrays is not None:
                recall_last_array(self._arrays, self._study)
            drop_spent(self._study)  # the last controller may have been killed before it did this
            more = True
            while more:
                more = self._go_on()
                self._show(self._study, [active.number for active in self._active])
                self._rest(POLL_S if more else 0.0)
        finally:
            self._take_down()

    def _go_on(self) -> bool:
        """Handle all events once; return whether anything is left to do."""
        if self._interrupts.requested():
            raise self._interrupted()
        if self._is_cancelled():
            raise RunCancelledError(f"cancelled; go on with `resume {self._study.folder.root}`")
        for active in list(self._active):
            result = active.watch.step()
            if result is not None:
                self._leave_slot(active)
                self._conclude(active.number, result)
        self._prune()
        self._fill()
        self._with_backend(self._ledger.hear)
        left = self._active or self._waiting or self._more_to_ask() or self._ledger.others()
        return bool(left) or not self._ledger.is_heard()

    def _rest(self, seconds: float) -> None:
        """Wait until the process of a trial has ended, or for `seconds`."""
        if self._more_to_ask():
            self._runs.look_ahead()
        ends = [active.watch.end_descriptor for active in self._active]
        proc.await_end([end for end in ends if end is not None], seconds)

    def _is_cancelled(self) -> bool:
        """Return whether the study was cancelled by a request, or by another controller that has seen one."""
        self._ledger.follow()
        if not self._study.cancelled and self._study.folder.cancel_request.exists():
            self._ledger.record(Cancelled(time.time()))
            # Remove the request only after the journal has it: if this process is killed between, it stays.
            self._study.folder.cancel_request.unlink(missing_ok=True)
        return self._study.cancelled

    def _more_to_ask(self) -> bool:
        """Return whether the backend may have more points."""
        return not self._exhausted and not self._ledger.is_whole()

    def _fill(self) -> None:
        """Start trials while there are free slots."""
        if self._arrays is not None:
            self._fill_array(self._arrays)
            return
        while self._free:
            number = self._next()
            if number is None:
                return
            self._start(self._study.trials[number])

    def _fill_array(self, arrays: JobArrays) -> None:
        """Start all trials that are ready, at once."""
        numbers: list[int] = []
        while len(numbers) < len(self._free) and (number := self._next()) is not None:
            numbers.append(number)
        trials = [self._study.trials[number] for number in numbers]
        for trial, begin in zip(trials, start_array(arrays, self._runs, self._study, trials), strict=True):
            self._begin(trial, begin)

    def _next(self) -> int | None:
        """Return a trial to start again, else a new one; None if there is none now."""
        due = [entry for entry in self._waiting if entry[0] <= time.monotonic() and self._has_room()]
        if due:
            self._waiting.remove(due[0])
            return due[0][1]
        while self._free and (left := self._ledger.adopt(self._runs.remote)):
            if self._is_to_start(left):
                return left.number
        return self._ask() if self._free and self._more_to_ask() else None

    def _has_room(self) -> bool:
        """Return whether a trial may start again.

        With an array, which Slurm throttles, there are more slots.
        """
        return len(self._active) < self._study.hpo.parallel

    def _is_to_start(self, trial: Trial) -> bool:
        """Handle a trial that another controller left: watch it, end it, or return True to start it again."""
        left = self._runs.recover(trial)
        if isinstance(left, Watch):
            self._active.append(Active(trial.number, self._free.popleft(), left))
        elif isinstance(left, RunResult) and left.attempts > self._study.given_up.get(trial.number, 0):
            self._conclude(trial.number, left)
        else:
            return True
        return False

    def _ask(self) -> int | None:
        return self._with_backend(self._ask_now)

    def _ask_now(self) -> int | None:
        """Ask the backend for a trial; None if it has none."""
        number = self._ledger.ask()
        if number is not None:
            self._say_repeated(self._study.trials[number])
        self._exhausted = number is None and not self._ledger.is_whole() and not self._ledger.backend.waits()
        return number

    def _say_repeated(self, trial: Trial) -> None:
        """Warn if a small space repeats a point: with the same seed it is the same training."""
        earlier = self._study.earlier(trial)
        if earlier is not None:
            log.warning(
                "trial %d has the point of trial %d: the space is small", trial.number, earlier.number
            )

    def _with_backend(self, use: Callable[[], int | None]) -> int | None:
        """Return what `use` returns; None while the backend's storage is silent: running trials go on without
        it.
        """
        if time.monotonic() < self._silent_until:
            return None
        try:
            answer = use()
        except NoAnswerError as error:
            to_mend = str(error) if isinstance(error.__cause__, ConfigError) else ""
            if to_mend not in self._said:
                log.warning("%s\n    asking again every %g s", error, ASK_AGAIN_S)
            self._said.add(to_mend)
            self._silent_until = time.monotonic() + ASK_AGAIN_S
            return None
        self._silent_until = 0.0
        self._said.clear()
        return answer

    def _start(self, trial: Trial) -> None:
        self._begin(trial, lambda: self._runs.start(trial, self._free[0]))

    def _begin(self, trial: Trial, start: Callable[[], Watch]) -> None:
        """Run the trial in the next slot, or end it if `start` raises."""
        try:
            watch = start()
        except ConfigError as error:
            self._end(trial.number, "infeasible", f"not started: {error}")
        except SubmissionError as error:
            refused = RunResult("failed", 3, str(error), failure_class="node", attempts=_attempts(trial) + 1)
            self._conclude(trial.number, refused)
        else:
            self._active.append(Active(trial.number, self._free.popleft(), watch))

    def _conclude(self, number: int, result: RunResult) -> None:
        """End the trial of a run that has ended, or try it again."""
        failure = result.failure_class
        if result.state == "succeeded":
            self._judge(number, result)
        elif failure in INFEASIBLE:
            self._end(number, "infeasible", f"memory ran out: {result.message}")
        elif failure in RETRIED and result.state in ("failed", "preempted"):
            self._retry(number, result, failure)
        else:
            self._end(number, "failed", f"{failure or result.state}: {result.message}")

    def _judge(self, number: int, result: RunResult) -> None:
        """End a trial whose run succeeded, by its metrics."""
        study, folder = self._study, RunFolder(Path(self._study.trials[number].run))
        nodes = folder.read_spec().layout.nodes
        metrics = measure(result, folder.read_metrics(), study.hpo, nodes)
        verdict = judge(metrics, study.objectives, study.constraints)
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}  # as JSON has them
        self._end(number, verdict.state, verdict.message, verdict.values, metrics, verdict.feasible)

    def _retry(self, number: int, result: RunResult, failure: FailureClass) -> None:
        """Start the trial again later, unless its retries are used up."""
        counted = RETRIED[failure]
        done = self._study.retries.get(number, 0)
        if counted and done >= self._study.hpo.retries:
            self._end(number, "failed", f"{failure}, {done + 1} times: {result.message}")
            return
        self._ledger.record(Retried(number, result.attempts, failure, result.message, time.time(), counted))
        if failure == "disk_full":
            raise DiskFullError(f"trial {number}: {result.message}")
        wait_s = _BACKOFF_S * 2 ** (done - 1) if done else 0.0
        self._waiting.append((time.monotonic() + wait_s, number))

    def _prune(self) -> None:
        """End the trials that the pruner gives up."""
        for active in list(self._active):
            active.pruned = active.pruned or self._pruner.judge(self._study.trials[active.number])
            if not active.pruned or time.monotonic() < active.not_before:
                continue
            try:
                result = active.watch.end(self._grace_s)
            except SubmissionError:  # the cluster does not answer now, which is no reason to end the study
                active.not_before = time.monotonic() + ASK_AGAIN_S
                continue
            self._leave_slot(active)
            if result.state == "succeeded":
                self._judge(active.number, result)
            else:
                self._end(active.number, "pruned", active.pruned)

    def _leave_slot(self, active: Active) -> None:
        self._active.remove(active)
        self._free.append(active.slot)

    def _end(
        self,
        number: int,
        state: TrialState,
        message: str,
        values: Params | None = None,
        metrics: Params | None = None,
        feasible: bool = False,
    ) -> None:
        """Record the end of a trial."""
        attempts = _attempts(self._study.trials[number])
        self._ledger.end(
            Ended(number, state, time.time(), values or {}, metrics or {}, feasible, message, attempts)
        )
        drop_spent(self._study)

    def _take_down(self) -> None:
        """End the running trials.

        A scheduler's job continues, for the next controller, unless somebody cancelled the study or
        interrupted it from the keyboard: not if this process was terminated, nor if it failed.
        """
        asked = self._study.cancelled or signal.SIGINT in self._interrupts.received
        left = [active for active in self._active if asked or not active.watch.remote]
        self._active.clear()
        try:
            end_all({active.number: partial(active.watch.end, self._grace_s) for active in left})
        finally:
            self._runs.close()

    def _interrupted(self) -> GalleyError:
        """Return the error of this interruption."""
        ended = len(self._study.trials) - len(self._study.running())
        message = (
            f"interrupted after {ended} of {self._study.target or '?'} trials; "
            f"go on with `resume {self._study.folder.root}`"
        )
        by_key = self._interrupts.received[0] == signal.SIGINT
        return InterruptedSweepError(message) if by_key else RunCancelledError(message)


def _attempts(trial: Trial) -> int:
    """Return how often the trial's run was started."""
    handles = RunFolder(Path(trial.run)).read_handles()
    return handles[-1].attempt if handles else 0
