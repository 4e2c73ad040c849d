"""What each mpirun is told, and how its answers are read. Outputs were recorded from the real programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from galley.schema import Mpi
from galley.spec import ClusterFacts, LaunchPlan, MpiFacts, RunHandle
from launchers.mpi.dialect import mask_cpus
from launchers.mpi.launcher import MpiLauncher
from launchers.mpi.probe import read_version
from tests.integration.local.standin import make_spec
from tests.support import REPO

GOLDEN = REPO / "tests" / "golden" / "mpi"
FACTS = ClusterFacts("node", 0, 0.0, 4, 0.0)
PROGRAMS = {
    "openmpi": "/usr/bin/mpirun",
    "mpich": "/usr/bin/mpiexec.hydra",
    "intel": "/opt/intel/mpiexec.hydra",
}


def make_plan(flavor: Any, hosts: int = 2, user: str = "", **options: Any) -> LaunchPlan:
    spec = make_spec("succeed", 2 * hosts, MINE="my value")
    layout = replace(spec.layout, nodes=hosts, procs_per_node=2, threads_per_proc=3)
    names = [f"{user}@node-{number}.cluster".lstrip("@") for number in range(hosts)]
    launcher = replace(spec.recipe.launcher, kind="mpi", mpi=Mpi(hosts=names, **options))
    spec = replace(spec, layout=layout, recipe=replace(spec.recipe, launcher=launcher))
    facts = replace(FACTS, mpi=MpiFacts(flavor, PROGRAMS[flavor], "1"), hosts=tuple(names))
    plan = MpiLauncher("/opt/python").plan(spec, Path("/runs/my run"), facts, 1)
    return replace(plan, argv=tuple(word.replace(spec.sha256, "SHA256") for word in plan.argv))


@pytest.mark.parametrize("flavor", PROGRAMS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("core", {"bind": "core", "options": ["--report-bindings"]}),
        ("masks", {"pin_masks": ["0x3f", "0xfc0"]}),
    ],
)
def test_the_command_is_as_it_was_reviewed(flavor: str, name: str, options: dict[str, Any]) -> None:
    plan = make_plan(flavor, **options)
    said = {"argv": plan.argv, "env": plan.env, "files": plan.files}
    golden = GOLDEN / f"{flavor}-{name}.json"
    assert json.loads(json.dumps(said)) == json.loads(golden.read_text()), f"differs from {golden}"


@pytest.mark.parametrize("flavor", PROGRAMS)
def test_values_never_stand_on_the_command_line(flavor: str) -> None:
    plan = make_plan(flavor)
    assert plan.env["MINE"] == "my value"
    assert "my value" not in " ".join(plan.argv)
    assert {"MINE", "-genvall"} & set(plan.argv), "it reaches the other hosts"


def test_the_ranks_meet_on_the_first_host_at_a_port_of_the_attempt() -> None:
    plan = make_plan("openmpi")
    assert plan.env["MASTER_ADDR"] == "node-0.cluster"
    assert 20000 <= int(plan.env["MASTER_PORT"]) < 30000


@pytest.mark.parametrize(
    ("mask", "cpus"), [("0x1", [0]), ("0xc", [2, 3]), ("0xfffffff0", list(range(4, 32))), ("0x0", [])]
)
def test_masks_are_bits(mask: str, cpus: list[int]) -> None:
    assert mask_cpus(mask) == cpus


@pytest.mark.parametrize(
    ("text", "flavor", "version"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to", "openmpi", "5.0.11"),
        ("mpirun.openmpi (OpenRTE) 4.1.4\n", "openmpi", "4.1.4"),
        ("HYDRA build details:\n    Version:                                 4.0.2\n", "mpich", "4.0.2"),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b)\n",
            "intel",
            "2021.18.1",
        ),
        ("mpirun of something else 1.0\n", None, None),
    ],
)
def test_flavors_are_told_by_their_version(text: str, flavor: str | None, version: str | None) -> None:
    found = read_version("mpirun", text)
    assert (found.flavor if found else None) == flavor
    assert (found.version if found else None) == version


FALLS = {
    "openmpi-signal": (
        "mpirun.openmpi noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).\n",
        (1, "node", "rank 1 on vm was killed by signal 9"),
    ),
    "openmpi-code": (
        "the job to be terminated. The first process to do so was:\n\n"
        "  Process name: [[22832,1],1]\n  Exit code:    3\n",
        (1, "user", "rank 1 ended with exit code 3"),
    ),
    "openmpi-host": (
        "ORTE has lost communication with a remote daemon.\n\n  HNP daemon   : [[26976,0],0] on node a\n"
        "  Remote daemon: [[26976,0],1] on node 10.213.7.2\n",
        (None, "node", "no answer from 10.213.7.2: mpirun has lost it"),
    ),
    "mpich-signal": (
        "=   PID 13872 RUNNING AT node-1\n=   EXIT CODE: 9\n=   CLEANING UP REMAINING PROCESSES\n"
        "=====\nYOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n",
        (None, "node", "a rank on node-1 was killed by signal 9"),
    ),
    "intel-signal": (
        "=   RANK 1 PID 14133 RUNNING AT localhost\n=   KILLED BY SIGNAL: 9 (Killed)\n=====\n",
        (1, "node", "rank 1 on localhost was killed by signal 9"),
    ),
    "silent": ("a line\n", (None, "user", "mpirun ended without a result, it said:\na line")),
}


@pytest.mark.parametrize("name", FALLS)
def test_the_first_rank_that_fell_is_read_from_the_report(tmp_path: Path, name: str) -> None:
    said, expected = FALLS[name]
    folder = RunFolder(tmp_path)
    folder.logs(1).mkdir(parents=True)
    folder.launcher_log(1).write_text("rank 0 speaks\n" * (name != "silent") + said)
    found = MpiLauncher().diagnose(RunHandle("mpi", 1, "1", "host", 0.0), folder)
    assert (found.rank, found.failure_class, found.message) == expected
