"""Whole runs under each mpirun, and how they fail."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from galley.schema import Mpi
from galley.spec import RunSpec
from tests.integration.conftest import Command
from tests.integration.local.standin import make_run, make_spec, start_launch
from tests.integration.mpi.flavors import FLAVORS, find
from tests.integration.reference import losses, train
from tests.support import not_available

TWO = ("cluster.procs_per_node=2", "cluster.threads_per_proc=1")


@pytest.mark.parametrize("flavor", ["openmpi", "mpich"])
def test_the_same_run_as_under_torchrun(tmp_path: Path, two_ranks_here: Path, flavor: str) -> None:
    """Intel MPI trains in tests/integration/hosts."""
    find(flavor)
    result = train(
        tmp_path / "run", "cluster.procs_per_node=2", "launcher=mpi", f"launcher.mpi.flavor={flavor}"
    )
    torchrun = json.loads(RunFolder(two_ranks_here).result_file.read_text())
    assert result["world_size"] == 2
    assert result["metrics"] == torchrun["metrics"], "bit for bit: the ranks are the same"
    assert result["engaged"] == torchrun["engaged"]
    assert losses(tmp_path / "run") == losses(two_ranks_here)


def start(folder: RunFolder, flavor: Any, spec: RunSpec, **options: Any) -> subprocess.Popen[str]:
    mpi = Mpi(flavor=flavor, program=find(flavor).program, **options)
    launcher = replace(spec.recipe.launcher, kind="mpi", mpi=mpi)
    folder.write_spec(replace(spec, recipe=replace(spec.recipe, launcher=launcher)))
    return start_launch(folder, "json")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_rank_that_is_killed_is_reported(tmp_path: Path, flavor: str) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, flavor, make_spec("be_killed_and_missed", STANDIN_RANK="1"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    result = json.loads(out.splitlines()[-1])
    assert (result["state"], result["failure_class"]) == ("failed", "node")
    assert "signal 9" in result["message"] or "exit code 9" in result["message"]
    if flavor != "mpich":  # which does not say who it was
        assert result["first_failed_rank"] == 1


HOSTILE = {"ONE": "a b;'\"`touch pwned`", "TWO": "$(touch pwned) \\ é\n new\tline", "EMPTY": ""}


@pytest.mark.parametrize("options", [{"bind": "core"}, {"pin_masks": ["0x1", "0x2"]}, {"bind": "none"}])
@pytest.mark.parametrize("flavor", FLAVORS)
def test_ranks_get_the_cores_and_the_variables_that_they_are_given(
    weird_tmp_path: Path, flavor: str, options: dict[str, Any]
) -> None:
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        not_available("one core only", "the test of binding")
    folder = make_run(weird_tmp_path / "run")
    process = start(folder, flavor, make_spec("record", **HOSTILE), **options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    received = [json.loads((folder.root / f"received-{rank}.json").read_text()) for rank in (0, 1)]
    for rank in received:
        assert {name: rank["env"][name] for name in HOSTILE} == HOSTILE
    assert not list(weird_tmp_path.rglob("pwned*"))
    cpus = [rank["cpus"] for rank in received]
    if options == {"bind": "none"}:
        assert cpus == [free, free]
    elif "pin_masks" in options:
        assert cpus == [[0], [1]]
    else:
        assert not set(cpus[0]) & set(cpus[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.nodes=2", *TWO], "launcher.mpi.hosts names no hosts"),
        (["launcher.mpi.hosts=[a,b]", *TWO], "names 2 hosts"),
        (["launcher.mpi.program=/bin/true"], "is no mpirun that Galley knows"),
        (['launcher.mpi.hosts=["a b"]', *TWO], "is no name of a host"),
        (["launcher.mpi.pin_masks=[zz]", *TWO], "is no mask of CPUs"),
        (['launcher.mpi.pin_masks=["0x1"]', *TWO], "1 masks for 2 ranks a node"),
    ],
)
def test_what_mpirun_could_not_carry_is_refused(galley: Command, words: list[str], message: str) -> None:
    code, _, said = galley("plan", "launcher=mpi", *words)
    assert code == 2, said
    assert message in said
