"""The real trainer under the real controller, killed three times: controller, a rank, both; then resumed.

A hundred points with a stand-in for the trainer are in tests/integration/hpo.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from galley.rundir import RunFolder
from tests.integration.local.standin import environment, last_json, wait_until
from tests.support import REPO, run_galley

STEPS, TRIALS = 20, 2
# A step lasts as many milliseconds as the seed says.
WORDS = (
    "hpo=grid", "hpo.trials=null", "hpo.parallel=2", "hpo.warm=true", "seed=300,301", "launcher.grace_s=0.5",
    f"plugins=[{REPO}/benchmarks/sleeper]", "task.kind=sleeper:Sleeper", "strategy=single",
    "batch.global_size=1", f"train.epochs={STEPS}", "train.log_every_steps=1", "eval.enabled=false",
    "checkpoint.every_steps=2", "checkpoint.model=false", "hpo.objectives=[train/loss:min]",
    "cluster.threads_per_proc=1",
)  # fmt: skip


def saved(study: Path) -> int:
    """The newest complete checkpoint of the trial that is behind the others."""
    found = [
        [int(path.parent.name[5:]) for path in study.glob(f"trials/{n:04d}/checkpoints/*/manifest.json")]
        for n in range(TRIALS)
    ]
    return min(max(steps, default=0) for steps in found)


def rank_of(study: Path, trial: int) -> psutil.Process:
    """The process in which the trial trains, behind the leader that the handle names."""
    leader = RunFolder(study / "trials" / f"{trial:04d}").read_handles()[-1].job
    (rank,) = psutil.Process(int(leader)).children()
    return rank


def run_until(words: list[str], study: Path, step: int, kill: Callable[[int], None]) -> None:
    """A controller, until every trial has a checkpoint of that step or a later one; then the kill."""
    argv = [sys.executable, "-P", str(REPO / "train.py"), *words]
    controller = subprocess.Popen(argv, cwd=REPO, env=environment(), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: saved(study) >= step or controller.poll() is not None, timeout=400)
        assert controller.poll() is None
        family = psutil.Process(controller.pid).children(recursive=True)
        kill(controller.pid)
    finally:
        os.kill(controller.pid, signal.SIGKILL)
        controller.wait()
    wait_until(lambda: not any(process.is_running() for process in family), timeout=60)


@pytest.mark.timeout(1500)
def test_trials_go_on_from_their_own_checkpoints_after_kills(tmp_path: Path) -> None:
    study = tmp_path / "study"
    resume = ["resume", str(study)]
    run_until(["sweep", *WORDS, f"hpo.study_dir={study}"], study, 2, lambda controller: None)
    begun = {n: (study / f"trials/{n:04d}/run.json").read_bytes() for n in range(TRIALS)}

    def kill_both(controller: int) -> None:
        rank = rank_of(study, 1)
        os.kill(controller, signal.SIGKILL)
        rank.kill()

    run_until(resume, study, saved(study) + 2, kill_both)

    def kill_rank(controller: int) -> None:
        """The controller lives, and starts the trial again itself."""
        rank_of(study, 0).kill()
        wait_until(lambda: saved(study) >= before + 4, timeout=300)

    before = saved(study)
    run_until(resume, study, before + 2, kill_rank)
    done = run_galley([*resume, "--json"], timeout=600)
    assert done.rc == 0, done.err
    trials = last_json(done.out)["trials"]
    assert [(t["number"], t["state"], t["params"]) for t in trials] == [
        (n, "succeeded", {"seed": 300 + n}) for n in range(TRIALS)
    ]
    for number in range(TRIALS):
        folder = RunFolder(study / f"trials/{number:04d}")
        assert folder.spec_file.read_bytes() == begun[number], "sealed once"
        result = folder.read_result()
        assert result is not None
        assert result.steps == STEPS
        assert result.attempts >= (3 if number else 5)
        assert result.resumed_from is not None
        assert [row["step"] for row in folder.read_metrics() if "loss" in row] == [*range(1, STEPS + 1)]
    events = [json.loads(line)["event"] for line in (study / "journal.jsonl").read_text().splitlines()]
    assert (events.count("asked"), events.count("ended"), events.count("retried")) == (TRIALS, TRIALS, 1)
