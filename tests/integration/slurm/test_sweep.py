"""Sweeps whose trials are jobs of the cluster; the trainer is the stand-in of tests/integration/hpo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from hpo import sweep
from hpo.controller import Controller
from hpo.study.state import Study, read_study
from tests.integration.conftest import Command
from tests.integration.hpo import lab
from tests.integration.local.standin import environment
from tests.integration.slurm.cluster import SlurmCluster, wait_until

WORDS = ("launcher=slurm", "hpo.trials=4", "hpo.parallel=2", "cluster.procs_per_node=1")
ARRAY = ("hpo=random", "hpo.array=true")


def jobs(study: Study) -> list[list[str]]:
    """Of every attempt of every trial."""
    return [[handle.job for handle in RunFolder(Path(trial.run)).read_handles()] for trial in study.trials]


def write_tool(path: Path, text: str) -> Path:
    """A program; returns the folder in which it is found."""
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
    return path.parent


@pytest.mark.parametrize("words", [("hpo=optuna",), ARRAY], ids=["jobs", "array"])
def test_trials_are_jobs_or_tasks_of_an_array_and_a_lost_one_starts_again(
    cluster: SlurmCluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, *words)
    (folder.root / "events.json").write_text(json.dumps([[1, 1, "node"]]))
    study = lab.run(folder)
    assert not lab.faults(folder, 4)
    assert [trial.attempts for trial in study.trials] == [1, 2, 1, 1]
    found = jobs(study)
    assert len({job for attempts in found for job in attempts}) == 5
    assert cluster.state(found[1][0]) == "FAILED"
    if words == ARRAY:
        first = found[0][0].partition("_")[0]
        assert [attempts[0] for attempts in found] == [f"{first}_{index}" for index in range(4)]
        assert found[1][1].partition("_")[0] != first, "an array of its own"
        assert "#SBATCH --array=0-3%2\n" in (folder.root / "arrays" / "study-0" / "array.sh").read_text()


def test_members_of_a_population_are_jobs_and_a_lost_one_is_made_again(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    words = ("hpo=pbt", "hpo.pbt.population=2", "hpo.objectives=[eval/f1]")
    folder = lab.make_study(tmp_path / "study", *WORDS, *words)
    (folder.root / "events.json").write_text(json.dumps([[2, 1, "node"]]))
    study = lab.run(folder)
    assert not lab.faults(folder, 4)
    assert [trial.attempts for trial in study.trials] == [1, 1, 2, 1]
    assert len({job for attempts in jobs(study) for job in attempts}) == 5


def test_an_array_outlives_its_controller(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, *ARRAY)
    argv = [sys.executable, "-m", "tests.integration.hpo.lab", folder.root]
    controller = subprocess.Popen(argv, env=environment(**cluster.environment, STANDIN_STEP_S="0.5"))
    wait_until(lambda: len(list(folder.trials.glob("*/launch.json"))) == 4, 60)
    controller.kill()
    controller.wait()
    study = lab.run(folder)
    assert not lab.faults(folder, 4)
    assert [trial.attempts for trial in study.trials] == [1] * 4, "nothing was submitted again"


KILLING_SBATCH = """\
#!/usr/bin/env bash
# The real sbatch; once it has taken a job, the process that asked for it is killed, the first time.
job=$({real} "$@") || exit
case " $* " in
    *" --test-only "*) ;;
    *) mkdir {once} 2>/dev/null && kill -KILL "$PPID" ;;
esac
echo "$job"
"""


@pytest.mark.parametrize("words", [("hpo=optuna",), ARRAY], ids=["jobs", "array"])
def test_a_controller_killed_before_it_knew_the_job_submits_nothing_twice(
    cluster: SlurmCluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, *words)
    killer = KILLING_SBATCH.format(real=shutil.which("sbatch"), once=tmp_path / "killed")
    path = f"{write_tool(tmp_path / 'bin' / 'sbatch', killer)}{os.pathsep}{os.environ['PATH']}"
    argv = [sys.executable, "-m", "tests.integration.hpo.lab", folder.root]
    assert subprocess.call(argv, env=environment(**cluster.environment, PATH=path)) == -signal.SIGKILL
    assert not list(folder.trials.glob("*/launch.json")), "it was killed before it could write one"
    study = lab.run(folder)
    assert not lab.faults(folder, 4)
    assert [trial.attempts for trial in study.trials] == [1] * 4
    submitted = cluster.check("squeue", "--states=all", "--noheader", "--array", "--format=%o")
    mine = [line for line in submitted.splitlines() if line.startswith(f"{folder.root}/")]
    assert len(mine) == 4, "nothing was submitted again"


def test_jobs_outlive_a_controller_that_fails(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, "hpo=optuna")
    monkeypatch.setenv("STANDIN_STEP_S", "0.5")

    def fail_once_both_run(controller: Controller) -> None:
        if len([job for job in jobs(read_study(folder.root)) if job]) == 2:
            raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(Controller, "_prune", fail_once_both_run)
        with pytest.raises(RuntimeError, match="a defect"):
            lab.run(folder)
    study = lab.run(folder)
    assert not lab.faults(folder, 4)
    assert [trial.attempts for trial in study.trials] == [1] * 4, "nothing was ended"


DEAF_SCANCEL = """\
#!/usr/bin/env bash
echo "scancel: error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""


def test_trials_that_cannot_be_ended_are_named_and_can_be_later(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, "hpo=optuna")
    path = f"{write_tool(tmp_path / 'bin' / 'scancel', DEAF_SCANCEL)}{os.pathsep}{os.environ['PATH']}"
    argv = [sys.executable, "-m", "tests.integration.hpo.lab", folder.root]
    env = environment(**cluster.environment, STANDIN_STEP_S="20", PATH=path)
    controller = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len([job for job in jobs(read_study(folder.root)) if job]) == 2, 60)
    controller.send_signal(signal.SIGINT)
    said = controller.communicate(timeout=60)[1]
    assert all(f"trial {number}: `scancel" in said for number in range(2)), said
    left = [job for trial in jobs(read_study(folder.root)) for job in trial]
    assert all(cluster.state(job) in ("PENDING", "RUNNING") for job in left)
    assert sweep.cancel(folder) == "cancelled"
    assert [cluster.state(job) for job in left] == ["CANCELLED"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hpo=optuna"], "hpo=optuna learns from each trial"),
        (["hpo=random", "launcher=local"], "means nothing to launcher=local"),
        (["hpo=random", "hpo.share=true"], "is one controller's"),
    ],
)
def test_what_can_be_no_array_is_refused(
    tmp_path: Path, galley: Command, words: list[str], message: str
) -> None:
    space = ("optim.lr=choice(1e-4,1e-3)", "hpo.objectives=[eval/f1]", f"hpo.study_dir={tmp_path}/study")
    code, _, said = galley("sweep", *WORDS, "hpo.array=true", *space, *words)
    assert code == 2, said
    assert message in said
