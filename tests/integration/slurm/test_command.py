"""The user's commands against the cluster: a whole run, and what Slurm or Galley refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support import run_galley

QUICKSTART = ("profile=small", "train.max_steps=4", "train.log_every_steps=2", "eval.enabled=false")
TWO_BY_TWO = ("launcher=slurm", "cluster.nodes=2", "cluster.procs_per_node=2", "cluster.threads_per_proc=1")


@pytest.mark.usefixtures("cluster")
def test_two_nodes_of_two_ranks_train_as_four_ranks_of_this_machine(tmp_path: Path) -> None:
    here = run_galley(
        [*QUICKSTART, "cluster.procs_per_node=4", f"run_dir={tmp_path}/here", "--json"], timeout=280
    )
    assert here.rc == 0, here.err
    there = run_galley([*QUICKSTART, *TWO_BY_TWO, f"run_dir={tmp_path}/there", "--json"], timeout=280)
    assert there.rc == 0, there.err
    local, slurm = (json.loads(done.out.splitlines()[-1]) for done in (here, there))
    assert slurm["state"] == "succeeded"
    assert slurm["world_size"] == local["world_size"] == 4
    assert slurm["metrics"]["train/loss"] == pytest.approx(local["metrics"]["train/loss"], abs=1e-5)
    assert slurm["engaged"]["elements_per_rank"] == local["engaged"]["elements_per_rank"]
    agents = (tmp_path / "there" / "logs" / "attempt-1" / "nodes").read_text().split()
    assert len(agents) == 2
    assert {path.name for path in (tmp_path / "there" / "logs" / "attempt-1").glob("rank-*.log")} == {
        f"rank-{rank}.log" for rank in range(4)
    }


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("launcher.slurm.partition=nope", "Invalid partition name specified"),
        ("cluster.gpus_per_node=9", "Requested node configuration is not available"),
        ("cluster.nodes=8", "Requested node configuration is not available"),
        ("cluster.cpus_per_node=99", "Requested node configuration is not available"),
        ('launcher.slurm.directives=["--no-such-option=1"]', "unrecognized option"),
        ('launcher.slurm.constraint="$(touch x); a"', "Invalid feature specification"),
    ],
)
def test_what_slurm_refuses_is_refused_with_its_reason(
    cluster: SlurmCluster, tmp_path: Path, override: str, reason: str
) -> None:
    done = run_galley([*TWO_BY_TWO, override, f"run_dir={tmp_path}/run"])
    assert done.rc == 3, done
    assert reason in done.err
    assert "Traceback" not in done.err
    assert not cluster.check("squeue", "-h"), "nothing was submitted"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher=slurm"], "set cluster.procs_per_node=N"),
        ([*TWO_BY_TWO, "after=nothing"], "is no run"),
        ([*TWO_BY_TWO, "launcher.slurm.directives=[evil]"], "is not an option of sbatch"),
        ([*TWO_BY_TWO, 'launcher.slurm.directives=["--wrap=id"]'], "is set by Galley itself"),
        ([*TWO_BY_TWO, 'launcher.slurm.partition="a\nb"'], "control character"),
        ([*TWO_BY_TWO, "cluster.time_limit_min=1"], "are not before the time limit"),
        (["cluster.nodes=2"], "is no place to meet"),
        (["cluster.procs_per_node=1", "after=nothing"], "is no run"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = run_galley(["plan", *overrides, f"run_dir={tmp_path}/run"], cwd=tmp_path)
    assert done.rc == 2, done
    assert message in done.err
    assert "Traceback" not in done.err
    assert not any(tmp_path.iterdir())
