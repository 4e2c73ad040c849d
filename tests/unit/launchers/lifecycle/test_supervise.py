"""Which error is the cause, which result is kept, and which signals are taken."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import (
    ClusterFacts,
    FailureClass,
    LaunchPlan,
    RankError,
    RunHandle,
    RunResult,
    RunSpec,
    State,
)
from launchers.base import Diagnosis, Job, Launcher
from launchers.lifecycle.result import conclude, mark_cancelled, result_of
from launchers.lifecycle.supervise import catch_interrupts
from tests.integration.local.standin import make_spec

HANDLE = RunHandle("seen", 1, "1", "host", 1000.0)


class Seen(Launcher):
    """A launcher that saw `diagnosis`."""

    name = "seen"

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        raise AssertionError

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        raise AssertionError

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        return "failed"

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        return False

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        return self.diagnosis

    def logs(self, handle: RunHandle, folder: RunFolder, rank: int | None = None) -> list[Path]:
        return []

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        raise AssertionError


KILLED = Diagnosis("rank 1 was killed by SIGKILL", 1, "node")
NOTHING = Diagnosis("the processes ended without a result")


def seen_job(folder: RunFolder, seen: Diagnosis = NOTHING) -> Job:
    return Seen(seen).find_job(HANDLE, folder, make_spec())


def failed(folder: RunFolder, *errors: tuple[int, FailureClass], seen: Diagnosis = NOTHING) -> RunResult:
    """The conclusion of an attempt whose ranks wrote `errors` one after the other."""
    for time, (rank, failure_class) in enumerate(errors):
        folder.write_rank_error(1, RankError(rank, float(time), failure_class, f"of rank {rank}", ""))
    return conclude(seen_job(folder, seen))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.mark.parametrize(
    ("errors", "seen", "rank", "failure_class", "exit_code"),
    [
        ([(1, "user"), (0, "node")], NOTHING, 1, "user", 4),
        ([(0, "node"), (1, "oom")], NOTHING, 1, "oom", 4),  # the survivor was quicker to report
        ([(0, "data"), (1, "data")], NOTHING, 0, "data", 2),
        ([(0, "configuration")], KILLED, 0, "configuration", 2),
        ([(0, "node")], KILLED, 1, "node", 4),  # rank 1 could write nothing
        ([(0, "preempted")], KILLED, 1, "node", 4),
        ([(1, "hang"), (0, "hang")], KILLED, 1, "hang", 4),  # it reported, and was killed only then
        ([], KILLED, 1, "node", 4),
        ([], NOTHING, None, "user", 4),
    ],
)
def test_the_cause_is_the_first_error_that_is_no_consequence(
    folder: RunFolder,
    errors: list[tuple[int, FailureClass]],
    seen: Diagnosis,
    rank: int | None,
    failure_class: FailureClass,
    exit_code: int,
) -> None:
    result = failed(folder, *errors, seen=seen)
    assert (result.state, result.first_failed_rank) == ("failed", rank)
    assert (result.failure_class, result.exit_code) == (failure_class, exit_code)


def test_ranks_that_were_all_told_to_end_were_preempted(folder: RunFolder) -> None:
    assert failed(folder, (0, "preempted"), (1, "preempted")).state == "preempted"


def test_success_is_never_overwritten(folder: RunFolder) -> None:
    done = RunResult("succeeded", 0, attempts=1, metrics={"eval/f1": 0.8})
    folder.write_result(done)
    mark_cancelled(seen_job(folder))
    assert failed(folder, (1, "user")) == done


def test_what_a_failed_worker_knew_is_kept(folder: RunFolder) -> None:
    folder.write_result(RunResult("failed", 4, attempts=1, steps=7, train_s=3.5))
    result = failed(folder, (1, "nan"))
    assert (result.steps, result.train_s, result.failure_class) == (7, 3.5, "nan")


def test_an_earlier_attempts_result_is_not_this_ones(folder: RunFolder) -> None:
    folder.write_result(RunResult("succeeded", 0, attempts=1))
    assert result_of(folder, 2) is None
    assert result_of(folder, 1) is not None


def test_a_cancelled_run_is_not_a_failed_one(folder: RunFolder) -> None:
    mark_cancelled(seen_job(folder))
    result = failed(folder, (0, "preempted"))
    assert (result.state, result.exit_code, result.first_failed_rank) == ("cancelled", 5, None)


def test_interrupts_are_counted_and_handlers_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with catch_interrupts() as caught:
        assert not caught.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (caught.requested(), caught.insisted()) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert caught.insisted()
        assert caught.received == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_interrupts() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught.received == []
    finally:
        signal.signal(signal.SIGHUP, before)
