"""The loop of a sweep: slots that are refilled as their trials end, without a barrier.

All that it knows is in the journal. It may be killed at any instant: the next controller folds the
journal, adopts what the last one left running, and goes on to exactly as many trials. Where the study is
shared, the next one may be there already.
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
from hpo.arrays import ARRAY_MOST, recall_last_array, start_array
from hpo.backends.base import NoAnswerError
from hpo.objectives import judge, measure
from hpo.population import drop_spent
from hpo.pruning.base import Pruner
from hpo.study.event_log import Cancelled, Ended, Retried
from hpo.study.shared_study import Ledger
from hpo.study.state import Study
from hpo.study.values import Params, Trial, TrialState
from hpo.trials import Slot, TrialRuns, end_all
from launchers.lifecycle.attempt_monitor import Watch
from launchers.lifecycle.supervise import Interrupts

log = logging.getLogger("galley")

POLL_S = 0.05
# A failure that another attempt may not have -> whether it counts against `hpo.retries`.
RETRIED: dict[FailureClass, bool] = {"node": True, "hang": True, "preempted": False, "disk_full": True}
# Memory that runs out belongs to the point, not to the attempt.
INFEASIBLE: frozenset[FailureClass] = frozenset({"oom"})
ASK_AGAIN_S = 10.0  # a scheduler, or the storage of a backend, that did not answer
_BACKOFF_S = 2.0  # after the second failure of a trial, then twice as long each time


class InterruptedSweepError(GalleyError):
    """The command was asked to end; the sweep can be resumed."""

    exit_code = INTERRUPTED_EXIT_CODE


@dataclass
class Active:
    """A trial in a slot.

    Attributes:
        pruned: why it is to be ended.
        not_before: `time.monotonic()` of the next try to end it.
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
        of = study.hpo.parallel
        slots = min(study.target or ARRAY_MOST, ARRAY_MOST) if study.hpo.array else of
        self._free = deque(Slot(number, of) for number in range(slots))
        self._active: list[Active] = []
        self._waiting: list[tuple[float, int]] = []  # (not before, trial) to be started again
        self._exhausted = False
        self._silent_until = 0.0  # `time.monotonic()`: the backend is not asked before
        self._said: set[str] = set()  # what there is to mend; empty: that it does not answer

    def run(self) -> None:
        """Until every trial has ended.

        Raises:
            DiskFullError: a trial has no room for its next file, and no other would have.
            RunCancelledError: somebody cancelled the study.
            InterruptedSweepError: this process was asked to end.
        """
        try:
            if self._study.hpo.array:
                recall_last_array(self._study)
            drop_spent(self._study)  # of a controller that was killed before it did
            more = True
            while more:
                more = self._go_on()
                self._show(self._study, [active.number for active in self._active])
                self._rest(POLL_S if more else 0.0)
        finally:
            self._take_down()

    def _go_on(self) -> bool:
        """One look at everything; whether there is anything left to do."""
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
        """Until a trial's process has ended, which is seen at once, or for `seconds`."""
        if self._more_to_ask():
            self._runs.look_ahead()
        ends = [active.watch.end_descriptor for active in self._active]
        proc.await_end([end for end in ends if end is not None], seconds)

    def _is_cancelled(self) -> bool:
        """By a request, or by another controller that has seen one."""
        self._ledger.follow()
        if not self._study.cancelled and self._study.folder.cancel_request.exists():
            self._ledger.record(Cancelled(time.time()))
            self._study.folder.cancel_request.unlink(missing_ok=True)
        return self._study.cancelled

    def _more_to_ask(self) -> bool:
        return not self._exhausted and not self._ledger.is_whole()

    def _fill(self) -> None:
        if self._study.hpo.array:
            self._fill_array()
            return
        while self._free:
            number = self._next()
            if number is None:
                return
            self._start(self._study.trials[number])

    def _fill_array(self) -> None:
        """All trials that there are to start, at once."""
        numbers: list[int] = []
        while len(numbers) < len(self._free) and (number := self._next()) is not None:
            numbers.append(number)
        trials = [self._study.trials[number] for number in numbers]
        for trial, begin in zip(trials, start_array(self._runs, self._study, trials), strict=True):
            self._begin(trial, begin)

    def _next(self) -> int | None:
        """A trial to start again, else a new one; None where there is none now."""
        due = [entry for entry in self._waiting if entry[0] <= time.monotonic() and self._has_room()]
        if due:
            self._waiting.remove(due[0])
            return due[0][1]
        while self._free and (left := self._ledger.adopt(self._runs.remote)):
            if self._is_to_start(left):
                return left.number
        return self._ask() if self._free and self._more_to_ask() else None

    def _has_room(self) -> bool:
        """For a trial that starts again: an array has its own throttle, and may have all the slots."""
        return len(self._active) < self._study.hpo.parallel

    def _is_to_start(self, trial: Trial) -> bool:
        """Take up a trial that another controller left: watched, ended, or to be started again."""
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
        number = self._ledger.ask()
        if number is not None:
            self._say_repeated(self._study.trials[number])
        self._exhausted = number is None and not self._ledger.is_whole() and not self._ledger.backend.waits()
        return number

    def _say_repeated(self, trial: Trial) -> None:
        """A point of a small space that was drawn again: under the same seed it is the same training."""
        earlier = self._study.earlier(trial)
        if earlier is not None:
            log.warning(
                "trial %d has the point of trial %d: the space is small", trial.number, earlier.number
            )

    def _with_backend(self, use: Callable[[], int | None]) -> int | None:
        """What `use` returns; None while the backend's storage is silent: what runs goes on without it."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            found = use()
        except NoAnswerError as error:
            to_mend = str(error) if isinstance(error.__cause__, ConfigError) else ""
            if to_mend not in self._said:
                log.warning("%s\n    asking again every %g s", error, ASK_AGAIN_S)
            self._said.add(to_mend)
            self._silent_until = time.monotonic() + ASK_AGAIN_S
            return None
        self._silent_until = 0.0
        self._said.clear()
        return found

    def _start(self, trial: Trial) -> None:
        self._begin(trial, lambda: self._runs.start(trial, self._free[0]))

    def _begin(self, trial: Trial, start: Callable[[], Watch]) -> None:
        """The trial runs in the next slot, or ends as what `start` raised says."""
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
        """A run has ended: the trial is over, or tried again."""
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
        study, folder = self._study, RunFolder(Path(self._study.trials[number].run))
        nodes = folder.read_spec().layout.nodes
        metrics = measure(result, folder.read_metrics(), study.hpo, nodes)
        verdict = judge(metrics, study.objectives, study.constraints)
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}  # as JSON has them
        self._end(number, verdict.state, verdict.message, verdict.values, metrics, verdict.feasible)

    def _retry(self, number: int, result: RunResult, failure: FailureClass) -> None:
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
        for active in list(self._active):
            active.pruned = active.pruned or self._pruner.judge(self._study.trials[active.number])
            if not active.pruned or time.monotonic() < active.not_before:
                continue
            try:
                result = active.watch.end(self._grace_s)
            except SubmissionError:  # its cluster does not answer now, which is no reason to end the study
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
        attempts = _attempts(self._study.trials[number])
        self._ledger.end(
            Ended(number, state, time.time(), values or {}, metrics or {}, feasible, message, attempts)
        )
        drop_spent(self._study)

    def _take_down(self) -> None:
        """End what runs. A job in a scheduler's hands goes on, for the next controller, unless somebody asked
        for the end of the study: not where this process was told to leave, nor where it failed."""
        asked = self._study.cancelled or signal.SIGINT in self._interrupts.received
        left = [active for active in self._active if asked or not active.watch.remote]
        self._active.clear()
        try:
            end_all({active.number: partial(active.watch.end, self._grace_s) for active in left})
        finally:
            self._runs.close()

    def _interrupted(self) -> GalleyError:
        ended = len(self._study.trials) - len(self._study.running())
        message = (
            f"interrupted after {ended} of {self._study.target or '?'} trials; "
            f"go on with `resume {self._study.folder.root}`"
        )
        by_key = self._interrupts.received[0] == signal.SIGINT
        return InterruptedSweepError(message) if by_key else RunCancelledError(message)


def _attempts(trial: Trial) -> int:
    """How often the trial's run was started."""
    handles = RunFolder(Path(trial.run)).read_handles()
    return handles[-1].attempt if handles else 0
