"""Sweeps whose trials are started by mpirun."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.hpo import lab
from tests.integration.mpi.flavors import FLAVORS, find

POPULATION = ("hpo=pbt", "hpo.pbt.population=2", "hpo.objectives=[eval/f1]")


@pytest.mark.parametrize(
    ("words", "trials"), [(("hpo=random",), 3), (POPULATION, 4)], ids=["random", "population"]
)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_trials_are_started_by_mpirun(
    tmp_path: Path, flavor: str, words: tuple[str, ...], trials: int
) -> None:
    find(flavor)
    place = ("launcher=mpi", f"launcher.mpi.flavor={flavor}", "hpo.parallel=2", "cluster.procs_per_node=1")
    folder = lab.make_study(tmp_path / "study", *words, f"hpo.trials={trials}", *place)
    study = lab.run(folder)
    assert not lab.faults(folder, trials)
    handles = [RunFolder(Path(trial.run)).read_handles() for trial in study.trials]
    assert {handle.launcher for attempts in handles for handle in attempts} == {"mpi"}
