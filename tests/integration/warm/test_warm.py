"""Forked runs next to one that was executed: the same bits, and nothing that reaches another run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.options import Options
from cli.prepare import prepare
from galley.errors import ConfigError
from galley.run.seal import write_snapshot
from galley.rundir import RunFolder
from galley.spec import LaunchPlan, RunHandle
from launchers.base import Launcher, job_environment
from launchers.lifecycle.launch import write_plan
from launchers.local.launcher import LocalLauncher
from launchers.warm.launcher import WarmLauncher
from tests.integration.local.standin import environment, wait_until
from tests.integration.reference import SMALL_BERT
from tests.support import REPO, run_process

pytestmark = pytest.mark.timeout(600)
SMALL = [
    "data.max_samples=16", "batch.global_size=8", "train.epochs=1", "train.log_every_steps=1",
    "eval.every_steps=null", "checkpoint.every_steps=null", "cluster.procs_per_node=2", *SMALL_BERT,
]  # fmt: skip
ENDLESS = ["train.epochs=100000"]
# A controller: submits one endless run, and waits to be killed.
CONTROLLER = """
import sys, time
from pathlib import Path
from tests.integration.warm.test_warm import submit
from launchers.warm.launcher import WarmLauncher
with WarmLauncher() as launcher:
    submit(launcher, Path(sys.argv[1]), *sys.argv[2:])
    time.sleep(600)
"""


def seal(launcher: Launcher, root: Path, *words: str) -> tuple[RunFolder, LaunchPlan]:
    prepared = prepare([*SMALL, *words, f"run_dir={root}"], Options())
    folder = RunFolder(prepared.run_dir)
    write_snapshot(prepared.recipe, folder)
    folder.write_spec(prepared.spec)
    plan = launcher.plan(prepared.spec, folder.root, prepared.facts, attempt=1)
    write_plan(plan, folder)
    return folder, plan


def submit(launcher: Launcher, root: Path, *words: str) -> tuple[RunFolder, RunHandle]:
    folder, plan = seal(launcher, root, *words)
    handle = launcher.submit(plan, folder)
    folder.write_handles([handle])
    return folder, handle


def run(launcher: Launcher, root: Path, *words: str) -> RunFolder:
    """A run that must succeed."""
    folder, handle = submit(launcher, root, *words)
    wait_until(lambda: launcher.poll(handle, folder) != "running", timeout=280)
    logs = "\n".join(path.read_text()[-2000:] for path in launcher.logs(handle, folder))
    assert launcher.poll(handle, folder) == "succeeded", logs
    return folder


def outcome(folder: RunFolder) -> tuple[bytes, list[tuple[object, ...]], dict[str, float]]:
    """All that a run computes: weights, loss and gradient norm of every step, metrics."""
    rows = [(row["step"], row.get("loss"), row.get("grad_norm")) for row in folder.read_metrics()]
    result = folder.read_result()
    assert result is not None
    return (folder.model / "model.safetensors").read_bytes(), rows, result.metrics


def trains(folder: RunFolder) -> bool:
    progress = folder.read_progress()
    return progress is not None and progress.phase == "train" and any(folder.read_metrics())


def family(handle: RunHandle) -> list[psutil.Process]:
    leader = psutil.Process(int(handle.job))
    return [leader, *leader.children(recursive=True)]


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmLauncher]:
    with WarmLauncher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(LocalLauncher(), tmp_path_factory.mktemp("cold") / "run")


def test_a_warm_run_is_a_cold_run_bit_for_bit(warm: WarmLauncher, cold: RunFolder, tmp_path: Path) -> None:
    first = run(warm, tmp_path / "first")
    other = run(warm, tmp_path / "other", "optim.lr=1e-3", "seed=7")
    again = run(warm, tmp_path / "again")
    assert outcome(first) == outcome(cold)
    assert outcome(again) == outcome(cold), "what another run did in between is not seen"
    assert outcome(other)[0] != outcome(cold)[0]
    result, executed = again.read_result(), cold.read_result()
    assert result is not None
    assert executed is not None
    assert result.engaged == executed.engaged
    assert result.wall_s < executed.wall_s, "counted from the fork, not from the start of the server"


def test_the_command_of_its_plan_does_what_the_forked_run_does(cold: RunFolder, tmp_path: Path) -> None:
    """As `launch.json` of a trial has it, for whoever wants to run that by hand."""
    folder, plan = seal(WarmLauncher(), tmp_path / "run")
    done = run_process(plan.argv, env=job_environment(plan), timeout=280)
    assert done.rc == 0, done.err
    assert outcome(folder) == outcome(cold)


def test_a_run_that_is_hurt_hurts_no_other(warm: WarmLauncher, cold: RunFolder, tmp_path: Path) -> None:
    folder, handle = submit(warm, tmp_path / "hurt", *ENDLESS)
    beside, handle_beside = submit(warm, tmp_path / "beside", *ENDLESS)
    wait_until(lambda: trains(folder) and trains(beside), timeout=200)
    processes = family(handle)
    ranks = {p.environ().get("RANK") for p in processes[1:]} if len(processes) == 3 else set()
    victim = max(processes[1:], key=lambda p: p.pid)  # forked last: rank 1
    victim.send_signal(signal.SIGKILL)
    wait_until(lambda: warm.poll(handle, folder) != "running", timeout=60)
    assert len(processes) == 3, ranks
    assert are_gone(processes)
    assert warm.poll(handle, folder) == "failed"
    assert warm.failing(handle, folder)
    diagnosis = warm.diagnose(handle, folder)
    assert (diagnosis.rank, diagnosis.failure_class) == (1, "node")
    assert "rank 1 was killed by SIGKILL" in diagnosis.message
    assert LocalLauncher().poll(handle_beside, beside) == "running", "seen by other processes too"
    others = family(handle_beside)
    LocalLauncher().cancel(handle_beside, beside, grace_s=1.0)
    assert are_gone(others)
    assert outcome(run(warm, tmp_path / "next")) == outcome(cold)


def below_server(warm: WarmLauncher) -> list[psutil.Process]:
    """Of the one server that there is."""
    (server,) = warm._servers.values()
    return psutil.Process(server.child.id.pid).children(recursive=True)


def crew(warm: WarmLauncher) -> list[psutil.Process]:
    """Once all runs have ended: a leader and two ranks, forked for the next one."""

    def found() -> list[psutil.Process]:
        living = [process for process in below_server(warm) if not are_gone([process])]
        return living if len(living) == 3 and living[1].ppid() == living[2].ppid() == living[0].pid else []

    wait_until(lambda: found() != [], 10)
    return found()


def test_processes_of_ended_runs_are_waited_for(warm: WarmLauncher, tmp_path: Path) -> None:
    """A leader does not wait for its ranks to the very end: the server does."""
    for number in range(3):
        run(warm, tmp_path / f"run-{number}")
    assert len(below_server(warm)) <= 6, "leader and ranks of the last run, and of the next one"
    waiting = crew(warm)
    run(warm, tmp_path / "run-3")
    wait_until(lambda: are_gone(waiting), 10)


def test_a_run_is_that_of_a_crew_that_waited(warm: WarmLauncher, cold: RunFolder, tmp_path: Path) -> None:
    run(warm, tmp_path / "before")
    waiting = crew(warm)
    folder, handle = submit(warm, tmp_path / "run")
    assert int(handle.job) == waiting[0].pid
    wait_until(lambda: warm.poll(handle, folder) != "running", timeout=60)
    assert outcome(folder) == outcome(cold)


@pytest.mark.parametrize("victim", [0, 2], ids=["leader", "rank"])
def test_a_crew_that_dies_before_its_run_is_replaced(
    warm: WarmLauncher, cold: RunFolder, tmp_path: Path, victim: int
) -> None:
    run(warm, tmp_path / "before")
    waiting = crew(warm)
    waiting[victim].send_signal(signal.SIGKILL)
    wait_until(lambda: are_gone(waiting), 10)
    assert outcome(run(warm, tmp_path / "run")) == outcome(cold)


def test_a_crew_of_too_many_ranks_is_dismissed(warm: WarmLauncher, tmp_path: Path) -> None:
    run(warm, tmp_path / "two")
    waiting = crew(warm)
    alone = ("strategy=single", "cluster.procs_per_node=1", "cluster.threads_per_proc=1")
    folder = run(warm, tmp_path / "one", *alone)
    wait_until(lambda: are_gone(waiting), 10)
    result = folder.read_result()
    assert result is not None
    assert result.world_size == 1


def test_a_server_that_dies_takes_its_runs_along_and_is_replaced(warm: WarmLauncher, tmp_path: Path) -> None:
    folder, handle = submit(warm, tmp_path / "orphan", *ENDLESS)
    wait_until(lambda: trains(folder), timeout=200)
    processes = family(handle)
    server = processes[0].parent()
    assert server is not None
    server.send_signal(signal.SIGKILL)
    wait_until(lambda: are_gone(processes), timeout=30)
    assert warm.poll(handle, folder) == "failed"
    run(warm, tmp_path / "next", "train.max_steps=1", "eval.enabled=false")


def test_nothing_outlives_a_killed_controller(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-c", CONTROLLER, str(tmp_path / "run"), *ENDLESS]
    controller = subprocess.Popen(argv, cwd=REPO, env=environment(PYTHONPATH=str(REPO)))
    folder = RunFolder(tmp_path / "run")
    try:
        wait_until(lambda: trains(folder), timeout=200)
        tree = psutil.Process(controller.pid).children
        wait_until(lambda: len(tree(recursive=True)) == 7, 10)
        processes = tree(recursive=True)
        assert len(processes) == 7, "a server; a leader and two ranks, and as many for the next run"
    finally:
        os.kill(controller.pid, signal.SIGKILL)
        controller.wait()
    wait_until(lambda: are_gone(processes), timeout=30)


def test_several_machines_are_refused(warm: WarmLauncher, tmp_path: Path) -> None:
    prepared = prepare([*SMALL, "launcher=slurm", "cluster.nodes=2", f"run_dir={tmp_path}/run"], Options())
    with pytest.raises(ConfigError, match="one machine"):
        warm.plan(prepared.spec, prepared.run_dir, prepared.facts, 1)
