"""What the scheduler does to jobs: real daemons, stand-in ranks."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import RunResult
from launchers.lifecycle.attempt_store import last_handle
from launchers.lifecycle.queries import run_state
from launchers.slurm.array import plan_array, submit_array
from launchers.slurm.launcher import SlurmLauncher
from tests.integration.conftest import Command
from tests.integration.slurm.cluster import SlurmCluster, wait_until
from tests.integration.slurm.jobs import FACTS, make_slurm_run, make_slurm_spec, submit_run


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
    mode = first.root.stat().st_mode
    assert mode & stat.S_IWGRP, "the group may write KILL and SAVE"
    assert mode & stat.S_ISVTX, "and change nothing else"
    assert first.result_file.stat().st_mtime < (second.logs(1) / "launcher.log").stat().st_mtime
    assert SlurmLauncher().facts(recipe_of(second), after=first).after is None, "it has succeeded"


def begin(root: Path, behavior: str, **slurm: Any) -> RunFolder:
    folder = make_slurm_run(root, make_slurm_spec(behavior, **slurm))
    submit_run(folder)
    return folder


def job_of(folder: RunFolder) -> str:
    return folder.read_handles()[-1].job


def test_every_way_of_cancelling_a_job_ends_that_one_alone(
    cluster: SlurmCluster, weird_tmp_path: Path, galley: Command
) -> None:
    """By the command, by an administrator, because it waited for one of these, as a task of an array."""
    own, admins, first = (begin(weird_tmp_path / name, "hang") for name in ("own", "admin's", "first"))
    tasks = [make_slurm_run(weird_tmp_path / f"{n}", make_slurm_spec("hang")) for n in range(2)]
    planned = [(task.read_spec(), task.root, 1) for task in tasks]
    array = plan_array(SlurmLauncher(), planned, weird_tmp_path / "array", FACTS)
    handles = submit_array(array, weird_tmp_path / "array", tasks)
    second = make_slurm_run(weird_tmp_path / "second", make_slurm_spec())
    submit_run(second, SlurmLauncher().facts(recipe_of(second), after=first))
    wait_until(lambda: all(map(is_hanging, (own, admins, first, *tasks))), 60)

    cluster.check("scancel", job_of(admins), job_of(first))
    status = json.loads(galley("status", own.root, "--json")[1])
    assert (status["state"], status["attempt"]) == ("running", 1)
    assert "rank 0 speaks" in galley("logs", own.root)[1]
    assert json.loads(galley("cancel", own.root, "--json")[1])["state"] == "cancelled"
    assert cluster.state(job_of(own)) == "CANCELLED"
    SlurmLauncher().cancel(handles[0], tasks[0], grace_s=1.0)
    for folder in (own, admins, first, second, tasks[0]):
        wait_until(lambda folder=folder: run_state(folder) == "cancelled", 60)
        assert folder.read_result().exit_code == 5
    assert not second.launcher_log(1).exists()
    assert run_state(tasks[1]) == "running"
    SlurmLauncher().cancel(handles[1], tasks[1], grace_s=1.0)
    SlurmLauncher().cancel(replace(handles[1], job="999999"), tasks[1], grace_s=1.0)  # long forgotten


def test_a_job_that_starts_again_is_the_next_attempt_of_the_same_run(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """By `scontrol requeue`; and before the time limit, where the run saves and is queued again."""
    requeued = begin(tmp_path / "requeued", "hang_once")
    saved = begin(tmp_path / "saved", "save_and_end_when_asked")
    last = begin(tmp_path / "last", "save_and_end_when_asked", requeue=False)
    wait_until(lambda: all(folder.launcher_log(1).exists() for folder in (saved, last)), 60)
    wait_until(lambda: is_hanging(requeued), 60)
    for folder in (saved, last):
        wait_until(lambda folder=folder: "speaks" in folder.launcher_log(1).read_text(), 60)
        cluster.check("scancel", "--signal=USR1", "--batch", job_of(folder))
    cluster.check("scontrol", "requeue", job_of(requeued))
    wait_until(lambda: cluster.state(job_of(requeued)) == "PENDING", 30)
    for folder in (requeued, saved):
        wait_until(lambda folder=folder: run_state(folder) == "queued", 30)
    for folder in (requeued, saved):
        wait_until(lambda folder=folder: run_state(folder) == "succeeded", 90)
        assert folder.read_result().attempts == 2
        assert last_handle(folder).attempt == 2
        assert "rank 0 speaks" in folder.launcher_log(2).read_text()
    cluster.wait_for(job_of(last), ["FAILED"])
    assert run_state(last) == "preempted"


def test_a_spare_node_of_another_kind_takes_the_place_of_one_that_fails_and_without_one_the_job_waits(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    kinds = {"constraint": "new", "spare_nodes": 1, "spare_constraint": "old"}
    spared = begin(tmp_path / "spared", "hang_once", nodes=2, **kinds)
    wait_until(lambda: is_hanging(spared), 60)
    nodes = (spared.logs(1) / "nodes").read_text().split()
    assert nodes[:2] == ["node3", "node4"], "the spare one is used last, whatever its name"
    assert nodes[2] in ("node1", "node2")
    waiting = begin(tmp_path / "waiting", "hang_once", exclude=nodes)
    wait_until(lambda: is_hanging(waiting), 60)
    alone = cluster.describe(job_of(waiting))["NodeList"]
    cluster.check("scontrol", "update", f"nodename={nodes[1]},{alone}", "state=down", "reason=test")

    wait_until(lambda: cluster.state(job_of(waiting)) == "PENDING", 30)
    assert run_state(waiting) == "queued", "until the node is back (ReturnToService)"
    for folder in (spared, waiting):
        wait_until(lambda folder=folder: run_state(folder) == "succeeded", 90)
        assert folder.read_result().attempts == 2
    assert cluster.describe(job_of(spared))["Restarts"] == "0", "the job kept its other nodes"
    assert (spared.logs(2) / "nodes").read_text().split() == [nodes[0], nodes[2]]
    assert SlurmLauncher().facts(recipe_of(spared), earlier=spared).avoid == (nodes[1],)


def test_a_job_that_slurm_forgot_is_known_by_its_result(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec())
    handle = replace(submit_run(folder), job="999999")
    folder.write_handles([handle])
    wait_until(folder.result_file.exists, 30)
    assert SlurmLauncher().poll(handle, folder) == "unknown"
    assert run_state(folder) == "succeeded"
    folder.write_result(RunResult(state="failed", exit_code=4, attempts=7))  # of no attempt of this run
    assert run_state(folder) == "unknown"
