"""What a site asks for in its own way, as the real daemons understand it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Cluster
from launchers.slurm.launcher import SlurmLauncher
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.jobs import FACTS, make_slurm_run, make_slurm_spec, submit_run


@pytest.mark.parametrize(
    ("slurm", "field", "value"),
    [
        ({"gpu_request": "gpus-per-node"}, "TresPerNode", "gres:gpu:2"),
        ({"gpu_request": "gres"}, "TresPerNode", "gres:gpu:2"),
        ({"gpu_request": "gpus-per-task"}, "TresPerTask", "gres:gpu:2"),
        ({"gpu_request": "none"}, "TresPerNode", None),
    ],
)
def test_slurm_grants_the_gpus_that_were_asked_for(
    cluster: SlurmCluster, tmp_path: Path, slurm: dict[str, Any], field: str, value: str | None
) -> None:
    folder = make_slurm_run(tmp_path / "run", make_slurm_spec(cluster=Cluster(gpus_per_node=2), **slurm))
    job = submit_run(folder).job
    assert cluster.describe(job).get(field) == value
    assert cluster.wait_for(job, ["COMPLETED", "FAILED"])["JobState"] == "COMPLETED"


def test_without_export_only_the_runs_variables_reach_the_ranks(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    monkeypatch.setenv("FORWARDED", "secret")
    spec = make_slurm_spec(export="none", setup=["env -0 >batch-environment"])
    env = {**spec.recipe.launcher.env, "OF_THE_RUN": "2"}
    launcher = replace(spec.recipe.launcher, env=env, forward_env=["FORWARDED", "ABSENT"])
    spec = replace(spec, recipe=replace(spec.recipe, launcher=launcher))
    monkeypatch.chdir(tmp_path)
    folder = make_slurm_run(tmp_path / "run", spec)
    plan = SlurmLauncher().plan(spec, folder.root, FACTS, 1)
    assert "secret" not in "".join(plan.files.values())
    job = submit_run(folder).job
    assert cluster.wait_for(job, ["COMPLETED", "FAILED"])["JobState"] == "COMPLETED", (
        "the ranks find the code"
    )
    (environment,) = tmp_path.rglob("batch-environment")
    rows = environment.read_bytes().split(b"\0")
    assert b"FORWARDED=secret" in rows
    assert b"OF_THE_SHELL=1" not in rows
