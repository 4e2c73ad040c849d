"""Runs as jobs of a real Ray cluster of two nodes.

All in this file, which one process runs: a second cluster would be too much for a small machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import RunHandle
from hpo.select import pareto_front
from hpo.study.folder import StudyFolder
from launchers.base import Launcher
from launchers.lifecycle.launch import submit, write_plan
from launchers.lifecycle.prepare import prepare
from launchers.lifecycle.queries import cancel_run, run_state
from launchers.ray.launcher import RayLauncher
from tests.contract.launcher_contract import LauncherContract
from tests.integration.conftest import Command
from tests.integration.hpo import lab
from tests.integration.local.standin import FACTS, end_all, hanging, make_run, wait_until
from tests.integration.ray.cluster import RayCluster, spread_over_nodes
from tests.integration.reference import TINY, losses, train
from tests.support import free_port

TWO_NODES = ("launcher=ray", "cluster.nodes=2", "cluster.procs_per_node=1")


@pytest.mark.timeout(900)
def test_two_nodes_train_as_two_ranks_of_this_machine(
    cluster: RayCluster, tmp_path: Path, two_ranks_here: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    result = train(folder.root, *TWO_NODES, f"launcher.ray.address={cluster.address}")
    assert result["world_size"] == 2
    assert losses(folder.root) == pytest.approx(losses(two_ranks_here), rel=1e-6)
    assert folder.launcher_log(1, node=1).exists(), "an agent a node"


def start(folder: RunFolder, cluster: RayCluster) -> None:
    spec = spread_over_nodes(folder, cluster.address)
    folder.write_spec(spec)
    prepared = prepare(spec, folder, FACTS, launcher=RayLauncher())
    write_plan(prepared.plan, folder)
    submit(prepared)


def test_a_run_is_seen_and_cancelled_and_one_without_room_waits(
    cluster: RayCluster, tmp_path: Path, galley: Command
) -> None:
    folder = make_run(tmp_path / "it's a run", "hang")
    start(folder, cluster)
    wait_until(lambda: hanging(folder), 120)
    crowded = make_run(tmp_path / "crowded", "succeed")
    start(crowded, cluster)
    status = json.loads(galley("status", folder.root, "--json")[1])
    assert (status["state"], status["attempt"]) == ("running", 1)
    assert "rank 1 speaks" in "".join(folder.launcher_log(1, node).read_text() for node in range(2)), galley(
        "logs", folder.root
    )
    assert run_state(crowded) == "queued"
    assert not crowded.launcher_log(1).exists(), "no half of it was started"
    assert cancel_run(crowded) == "cancelled"
    shutil.rmtree(crowded.root)
    start(make_run(crowded.root, "succeed"), cluster)
    assert run_state(crowded) == "queued", "the same run in the same place has a job of the same name"
    assert cancel_run(crowded) == "cancelled"
    assert galley("cancel", folder.root)[:2] == (0, "cancelled\n")
    result = folder.read_result()
    assert result is not None
    assert result.exit_code == 5


def lose(folder: StudyFolder, number: int, program: str) -> None:
    """Kill a program of the first attempt of a trial, once that trains."""
    wait_until(lambda: lab.trace(folder, number), 300)
    run = f"{folder.trial(number)}"
    victim = next(p for p in lab.living(folder) if {program, run} <= set(p.cmdline()))
    victim.kill()


@pytest.mark.timeout(900)
def test_trials_have_a_placement_group_of_two_nodes_each_and_a_lost_job_starts_again(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """Two at a time, points from Ray Tune's searcher."""
    words = (*TWO_NODES, f"launcher.ray.address={cluster.address}", "cluster.cpus_per_node=1", "strategy=ddp")
    words = (*words, "hpo=ray", "hpo.trials=3", "hpo.parallel=2", "launcher.env.STANDIN_STEP_S=0.3")
    folder = lab.make_study(tmp_path / "study", *words)
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(lose, folder, 1, "launchers.ray.driver")
        study = lab.run(folder)
        killed.result()
    assert not lab.faults(folder, 3)
    assert [trial.attempts for trial in study.trials] == [1, 2, 1]
    points = [(t.values["eval/f1"], t.values["samples_per_s"]) for t in study.trials]
    beaten = [any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]
    assert list(pareto_front(study).front) == [number for number in range(3) if not beaten[number]]
    events = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    (retried,) = [event for event in events if event["event"] == "retried"]
    assert (retried["number"], retried["failure_class"]) == (1, "node")
    for trial in study.trials:
        run = RunFolder(Path(trial.run))
        assert json.loads((run.root / "rank-1.json").read_text()) == {
            "attempt": trial.attempts, "world_size": "2",
        }  # fmt: skip
        assert run.launcher_log(trial.attempts, node=1).exists(), "an agent a node"
    starts = [event["time"] for event in events if event["event"] == "asked"]
    first_end = min(event["time"] for event in events if event["event"] in ("ended", "retried"))
    assert sum(start < first_end for start in starts) == 2, "two at a time, and no more"


def one_node(cluster: RayCluster) -> tuple[str, ...]:
    return ("launcher=ray", f"launcher.ray.address={cluster.address}", "cluster.procs_per_node=1")


@pytest.mark.timeout(900)
def test_members_of_a_population_are_jobs(cluster: RayCluster, tmp_path: Path) -> None:
    words = ("hpo=pbt", "hpo.trials=4", "hpo.parallel=2", "hpo.pbt.population=2", "hpo.objectives=[eval/f1]")
    folder = lab.make_study(tmp_path / "study", *one_node(cluster), *words)
    lab.run(folder)
    assert not lab.faults(folder, 4)


@pytest.mark.timeout(900)
def test_the_job_of_a_pruned_trial_ends(cluster: RayCluster, tmp_path: Path) -> None:
    """The second trial's learning rate is the worse one."""
    words = ("hpo=grid", "hpo.trials=2", "hpo.objectives=[eval/f1]", "optim.lr=choice(1e-4,9e-4)")
    rungs = ("hpo.pruning.kind=asha", "hpo.pruning.eta=2", "hpo.pruning.min_trials=2")
    slow = "launcher.env.STANDIN_STEP_S=1.5"
    folder = lab.make_study(tmp_path / "study", *one_node(cluster), *words, *rungs, slow)
    study = lab.run(folder)
    assert [trial.state for trial in study.trials] == ["succeeded", "pruned"]
    assert lab.trace(folder, 1)[-1].get("done") is None
    wait_until(lambda: not lab.living(folder), 30)
    assert run_state(RunFolder(Path(study.trials[1].run))) == "cancelled"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["launcher.ray.address=10.0.0.1"], 2, "is not the address of a dashboard"),
        (["launcher.ray.address=http://10.0.0.1:65536"], 2, "is not the address of a dashboard"),
        (["after=nothing"], 2, "is no run"),
        (["run_dir=$HOME"], 2, "has a '$' in its path"),
        ([], 3, "no Ray cluster answers at"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, galley: Command, words: list[str], code: int, message: str
) -> None:
    nobody = f"launcher.ray.address=http://127.0.0.1:{free_port()}"
    found, _, said = galley(*TINY, *TWO_NODES, nobody, f"run_dir={tmp_path}/run", *words)
    assert found == code, said
    assert message in said


class TestRay(LauncherContract):
    def make(self) -> RayLauncher:
        return RayLauncher()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[RunFolder]:
        """As odd a path as Ray takes: it would expand a `$`."""
        folder = RunFolder(tmp_path / 'it\'s a "weird"; {x}=[1] #é' / "run")
        yield folder
        end_all(folder)

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RayCluster) -> None:
        self.address = cluster.address

    def foreign_job(self) -> str:  # type: ignore[override]
        return "another"

    def submit(self, folder: RunFolder, attempt: int = 1) -> tuple[Launcher, RunHandle]:
        folder.write_spec(spread_over_nodes(folder, self.address))
        return super().submit(folder, attempt)
