"""What the scheduler does to jobs: real daemons, stand-in ranks."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import RunResult
from launchers.runs import last_handle, run_state
from launchers.slurm import SlurmLauncher
from launchers.slurm_array import plan_array, submit_array
from tests.integration.slurm.cluster import SlurmCluster, wait_until
from tests.integration.slurm.jobs import FACTS, make_slurm_run, make_slurm_spec, submit_run
from tests.support import run_galley


def is_hanging(folder: RunFolder) -> bool:
    return (folder.root / "pid-0").exists()


def recipe_of(folder: RunFolder) -> Recipe:
    recipe = folder.read_spec().recipe
    return replace(recipe, cluster=replace(recipe.cluster, procs_per_node=1))


def test_an_array_runs_every_run_and_no_more_than_allowed_at_a_time(
    cluster: SlurmCluster, weird_tmp_path: Path
) -> None:
    runs = [make_slurm_run(weird_tmp_path / f"run {n}", make_slurm_spec()) for n in range(5)]
    planned = [(run.read_spec(), run.root, 1) for run in runs]
    plan = plan_array(SlurmLauncher(), planned, weird_tmp_path / "array", FACTS, parallel=2)
    handles = submit_array(plan, weird_tmp_path / "array", runs)
    job = handles[0].job.split("_")[0]
    most = 0

    def all_done() -> bool:
        nonlocal most
        most = max(most, len(cluster.check("squeue", "-h", "-r", "-t", "running", "-j", job).splitlines()))
        return all(run_state(run) == "succeeded" for run in runs)

    wait_until(all_done, 60)
    assert most == 2
    assert [handle.job for handle in handles] == [f"{job}_{n}" for n in range(5)]


def test_one_run_of_an_array_is_cancelled_alone(cluster: SlurmCluster, tmp_path: Path) -> None:
    runs = [make_slurm_run(tmp_path / f"{n}", make_slurm_spec("hang")) for n in range(2)]
    plan = plan_array(SlurmLauncher(), [(r.read_spec(), r.root, 1) for r in runs], tmp_path / "array", FACTS)
    first, second = submit_array(plan, tmp_path / "array", runs)
    wait_until(lambda: all(map(is_hanging, runs)), 30)
    SlurmLauncher().cancel(first, runs[0], grace_s=1.0)
    assert run_state(runs[0]) == "cancelled"
    assert run_state(runs[1]) == "running"
    SlurmLauncher().cancel(second, runs[1], grace_s=1.0)


def test_a_run_starts_after_the_one_that_it_waits_for_has_succeeded(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    first = make_slurm_run(tmp_path / "first", make_slurm_spec())
    second = make_slurm_run(tmp_path / "second", make_slurm_spec())
    submit_run(first)
    facts = SlurmLauncher().facts(recipe_of(second), after=first)
    submit_run(second, facts)
    assert run_state(second) == "queued"
    wait_until(lambda: run_state(second) == "succeeded", 60)
    assert first.result_file.stat().st_mtime < (second.logs(1) / "launcher.log").stat().st_mtime
    assert SlurmLauncher().facts(recipe_of(second), after=first).after is None, "it has succeeded"


def test_a_run_that_waits_for_a_failure_is_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    first = make_slurm_run(tmp_path / "first", make_slurm_spec("hang"))
    second = make_slurm_run(tmp_path / "second", make_slurm_spec())
    job = submit_run(first).job
    submit_run(second, SlurmLauncher().facts(recipe_of(second), after=first))
    wait_until(lambda: is_hanging(first), 30)
    cluster.check("scancel", job)
    wait_until(lambda: run_state(second) == "cancelled", 60)
    assert not (second.logs(1) / "launcher.log").exists()


def test_another_process_shows_and_cancels_a_run(cluster: SlurmCluster, weird_tmp_path: Path) -> None:
    folder = make_slurm_run(weird_tmp_path / "run", make_slurm_spec("hang"))
    job = submit_run(folder).job
    wait_until(lambda: is_hanging(folder), 30)
    status = json.loads(run_galley(["status", folder.root, "--json"]).out)
    assert (status["state"], status["attempt"]) == ("running", 1)
    assert "rank 0 speaks" in run_galley(["logs", folder.root]).out
    cancelled = run_galley(["cancel", folder.root, "--json"])
    assert json.loads(cancelled.out)["state"] == "cancelled"
    assert cluster.state(job) == "CANCELLED"
    assert folder.read_result().exit_code == 5


@pytest.mark.parametrize("how", ["scontrol requeue", "a node fails"])
def test_a_job_that_starts_again_is_the_next_attempt_of_the_same_run(
    cluster: SlurmCluster, tmp_path: Path, how: str
) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec("hang_once"))
    job = submit_run(folder).job
    wait_until(lambda: is_hanging(folder), 30)
    if how == "a node fails":
        node = cluster.describe(job)["NodeList"]
        cluster.check("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    else:
        cluster.check("scontrol", "requeue", job)
    wait_until(lambda: cluster.state(job) == "PENDING", 20)
    assert run_state(folder) == "queued"
    wait_until(lambda: run_state(folder) == "succeeded", 60)
    assert folder.read_result().attempts == 2
    assert last_handle(folder).attempt == 2
    assert "rank 0 speaks" in folder.launcher_log(2).read_text()


@pytest.mark.parametrize("requeue", [True, False])
def test_before_the_time_limit_the_run_saves_and_is_queued_again(
    cluster: SlurmCluster, tmp_path: Path, requeue: bool
) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec("save_and_end_when_asked", requeue=requeue))
    job = submit_run(folder).job
    wait_until((folder.logs(1) / "launcher.log").exists, 30)
    time.sleep(0.5)
    cluster.check("scancel", "--signal=USR1", "--batch", job)
    if requeue:
        wait_until(lambda: run_state(folder) == "queued", 20)
        wait_until(lambda: run_state(folder) == "succeeded", 60)
        assert folder.read_result().attempts == 2
    else:
        cluster.wait_for(job, ["FAILED"])
        assert run_state(folder) == "preempted"


def test_a_spare_node_of_another_kind_takes_the_place_of_one_that_fails(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    kinds = {"constraint": "new", "spare_nodes": 1, "spare_constraint": "old"}
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec("hang_once", nodes=2, **kinds))
    job = submit_run(folder).job
    wait_until(lambda: is_hanging(folder), 60)
    nodes = (folder.logs(1) / "nodes").read_text().split()
    assert nodes[:2] == ["node3", "node4"], "the spare one is used last, whatever its name"
    assert nodes[2] in ("node1", "node2")
    cluster.check("scontrol", "update", f"nodename={nodes[1]}", "state=down", "reason=test")
    wait_until(lambda: run_state(folder) == "succeeded", 60)
    assert folder.read_result().attempts == 2
    assert cluster.describe(job)["Restarts"] == "0", "the job kept its other nodes"
    assert (folder.logs(2) / "nodes").read_text().split() == [nodes[0], nodes[2]]
    assert SlurmLauncher().facts(recipe_of(folder), earlier=folder).avoid == (nodes[1],)


def test_a_job_that_slurm_forgot_is_known_by_its_result(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec())
    handle = replace(submit_run(folder), job="999999")
    folder.write_handles([handle])
    wait_until(folder.result_file.exists, 30)
    assert SlurmLauncher().poll(handle, folder) == "unknown"
    assert run_state(folder) == "succeeded"
    folder.write_result(RunResult(state="failed", exit_code=4, attempts=7))  # of no attempt of this run
    assert run_state(folder) == "unknown"


def test_a_job_that_an_administrator_cancels_is_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec("hang"))
    job = submit_run(folder).job
    wait_until(lambda: is_hanging(folder), 30)
    cluster.check("scancel", job)
    wait_until(lambda: run_state(folder) == "cancelled", 30)
    assert folder.read_result().exit_code == 5
