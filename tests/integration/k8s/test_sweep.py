"""A sweep whose trials are jobs of the emulated cluster, each connected by the API alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.errors import RunFailedError
from galley.rundir import RunFolder
from tests.integration.hpo import lab
from tests.integration.k8s.cluster import Cluster


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_trials_are_jobs_and_their_results_come_back(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    words = ("launcher=k8s", f"launcher.kind={kind}", "cluster.procs_per_node=1")
    words = (*words, "hpo=random", "hpo.trials=2", "hpo.parallel=2")
    study = lab.run(lab.make_study(tmp_path / "study", *words))
    assert [trial.state for trial in study.trials] == ["succeeded"] * 2
    for trial in study.trials:
        assert 0 < trial.values["eval/f1"] <= 1
        assert trial.values["samples_per_s"] == pytest.approx(1 / trial.params["optim.lr"])
    handles = [RunFolder(Path(trial.run)).read_handles() for trial in study.trials]
    assert len({handle.job for attempts in handles for handle in attempts}) == 2
    assert len(cluster.jobs) == 2


def test_a_population_needs_a_claim_that_pods_and_this_machine_see_at_one_path(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A pod starts from a checkpoint that another one has left."""
    words = ("launcher=k8s", "cluster.procs_per_node=1", "hpo=pbt", "hpo.trials=4", "hpo.parallel=2")
    words = (*words, "hpo.pbt.population=2", "hpo.objectives=[eval/f1]")
    with pytest.raises(RunFailedError, match=r"not started: train.stop_at_step: .* at the same path"):
        lab.run(lab.make_study(tmp_path / "study", *words))
    assert not cluster.jobs
    place = cluster.claim
    shared = ("transport=claim", f"claim_here={place}", f"mount_path={place}")
    folder = lab.make_study(place / "study", *words, *(f"launcher.k8s.{word}" for word in shared))
    lab.run(folder)
    assert not lab.faults(folder, 4)
