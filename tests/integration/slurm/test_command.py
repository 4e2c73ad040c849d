"""The user's commands against the cluster: a whole run, and what Slurm or Galley refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Command
from tests.integration.reference import losses, train
from tests.integration.slurm.cluster import SlurmCluster

TWO_BY_TWO = ("launcher=slurm", "cluster.nodes=2", "cluster.procs_per_node=2", "cluster.threads_per_proc=1")


@pytest.mark.usefixtures("cluster")
def test_two_nodes_of_two_ranks_train_as_two_ranks_of_this_machine(
    tmp_path: Path, two_ranks_here: Path
) -> None:
    """The number of ranks is another, the global batch is the same, and so are the losses."""
    there = tmp_path / "there"
    result = train(there, *TWO_BY_TWO)
    assert result["world_size"] == 4
    assert losses(there) == pytest.approx(losses(two_ranks_here), abs=1e-5)
    logs = there / "logs" / "attempt-1"
    assert len((logs / "nodes").read_text().split()) == 2
    assert {path.name for path in logs.glob("rank-*.log")} == {f"rank-{rank}.log" for rank in range(4)}


@pytest.mark.usefixtures("cluster")
def test_what_is_submitted_is_what_plan_printed(tmp_path: Path, galley: Command) -> None:
    """Slurm refuses it, after all was written down."""
    words = (*TWO_BY_TWO, "launcher.slurm.partition=nope", f"run_dir={tmp_path}/run")
    printed = json.loads(galley("plan", *words, "--json")[1].splitlines()[-1])
    code, _, said = galley(*words)
    assert code == 3, said
    kept = json.loads((tmp_path / "run" / "plan" / "launch.json").read_text())
    for name in ("argv", "env", "files"):
        assert kept[name] == printed[name]
    for path, text in printed["files"].items():
        assert (tmp_path / "run" / "plan" / path).read_text() == text


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
    cluster: SlurmCluster, tmp_path: Path, galley: Command, override: str, reason: str
) -> None:
    code, _, said = galley(*TWO_BY_TWO, override, f"run_dir={tmp_path}/run")
    assert code == 3, said
    assert reason in said
    assert not cluster.check("squeue", "-h"), "nothing was submitted"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["launcher=slurm", "cluster.device=cuda"], "set cluster.procs_per_node=N"),
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
    tmp_path: Path, galley: Command, overrides: list[str], message: str
) -> None:
    code, _, said = galley("plan", *overrides, f"run_dir={tmp_path}/run")
    assert code == 2, said
    assert message in said
    assert not any(tmp_path.iterdir())
