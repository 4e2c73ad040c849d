"""A sweep whose trials are started by mpirun."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.hpo import lab
from tests.integration.mpi.flavors import FLAVORS, find


@pytest.mark.parametrize("flavor", FLAVORS)
def test_trials_are_started_by_mpirun(tmp_path: Path, flavor: str) -> None:
    find(flavor)
    words = ("launcher=mpi", f"launcher.mpi.flavor={flavor}", "hpo=random", "hpo.trials=3", "hpo.parallel=2")
    folder = lab.make_study(tmp_path / "study", *words, "cluster.procs_per_node=1")
    study = lab.run(folder)
    assert not lab.faults(folder, 3)
    handles = [RunFolder(Path(trial.run)).read_handles() for trial in study.trials]
    assert {handle.launcher for attempts in handles for handle in attempts} == {"mpi"}
