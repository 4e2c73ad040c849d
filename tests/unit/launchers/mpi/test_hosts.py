"""Lists and files of hosts, as the documentation of Open MPI, Hydra, Slurm and PBS has them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Cluster, Launcher, Mpi, Recipe
from launchers.mpi.hosts import expand, hosts_of, read_hostfile
from launchers.mpi.launcher import MpiLauncher, rendezvous
from tests.unit.launchers.mpi.test_dialect import make_plan


@pytest.mark.parametrize(
    ("entries", "hosts"),
    [
        (["a", "b.example.org", "10.1.2.3"], ["a", "b.example.org", "10.1.2.3"]),
        (["node[01-03]"], ["node01", "node02", "node03"]),
        (["node[9-11]"], ["node9", "node10", "node11"]),
        (["node[098-101,7]"], ["node098", "node099", "node100", "node101", "node7"]),
        (["r[1-2]n[1,3].x"], ["r1n1.x", "r1n3.x", "r2n1.x", "r2n3.x"]),
        (["joe@node[1-2]", "c"], ["joe@node1", "joe@node2", "c"]),
    ],
)
def test_ranges_are_the_hosts_that_slurm_would_name(entries: list[str], hosts: list[str]) -> None:
    assert expand("hosts", entries) == (hosts, [])
    bare = [entry for entry in entries if "@" not in entry]
    if shutil.which("scontrol") and bare == entries and not any("]n[" in entry for entry in entries):
        argv = ["scontrol", "show", "hostnames", ",".join(entries)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode != 0 or done.stdout.split() == hosts


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("fe80::1", "is an IPv6 address"),
        ("[fe80::1]", "is an IPv6 address"),
        ("::1", "is an IPv6 address"),
        ("ab:70000", "names a port"),
        ("node:22", "names a port"),
        ("node[3-1]", "is no name of a host"),
        ("node[1-", "is no name of a host"),
        ("node[a-b]", "is no name of a host"),
        ("node[1-999999999]", "is no name of a host"),
        ("a b", "is no name of a host"),
        ("-x", "is no name of a host"),
        ("a@b@c", "is no name of a host"),
        ("", "is no name of a host"),
    ],
)
def test_what_no_mpirun_carries_is_refused(entry: str, said: str) -> None:
    _, problems = expand("launcher.mpi.hosts", [entry])
    assert [problem.where for problem in problems] == [f"launcher.mpi.hosts: {entry!r}"]
    assert said in problems[0].what


@pytest.mark.parametrize("entries", [["a", "a"], ["joe@a", "a"], ["n[1-3]", "n2"]])
def test_a_host_that_is_named_twice_is_refused(entries: list[str]) -> None:
    _, problems = expand("launcher.mpi.hosts", entries)
    assert "more than once" in problems[0].what


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("a\nb\n", {"a": None, "b": None}),
        ("# ours\na slots=4 max_slots=8\n\nb slots=4  # new\n", {"a": 4, "b": 4}),
        ("a:2\njoe@b:3\n", {"a": 2, "joe@b": 3}),
        ("a\na\nb\nb\n", {"a": 2, "b": 2}),
        ("a slots=2 username=joe\nb:2 user=ann\n", {"joe@a": 2, "ann@b": 2}),
        ("node[1-2] slots=2\n", {"node1": 2, "node2": 2}),
    ],
    ids=["plain", "openmpi", "hydra", "pbs", "users", "ranges"],
)
def test_files_of_hosts_are_read_in_every_dialect(text: str, slots: dict[str, int | None]) -> None:
    assert read_hostfile("hosts", text) == (slots, [])


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("a\nb speed=4\n", "hosts:2", "'speed=4' is not understood"),
        ("a slots=many\n", "hosts:1", "'slots=many' is not understood"),
        ("a slots=2\na slots=2\n", "hosts:2", "states the slots of a once more"),
        ("fe80::1:2\n", "hosts:1: 'fe80::1:2'", "is an IPv6 address"),
        ("# nothing\n", "hosts", "names no host"),
    ],
)
def test_a_wrong_line_is_named(text: str, where: str, said: str) -> None:
    (problem,) = read_hostfile("hosts", text)[1]
    assert problem.where == where
    assert said in problem.what


def with_file(path: Path, text: str, nodes: int = 2, procs: int | None = 2, **mpi: list[str]) -> Recipe:
    path.write_text(text)
    return Recipe(
        cluster=Cluster(nodes=nodes, procs_per_node=procs),
        launcher=Launcher(kind="mpi", mpi=Mpi(hostfile=str(path), **mpi)),  # type: ignore[arg-type]
    )


def test_the_hosts_of_a_file_are_those_of_the_run(tmp_path: Path) -> None:
    recipe = with_file(tmp_path / "hosts", "joe@a slots=2\nb slots=4\n")
    facts = MpiLauncher().facts(recipe)
    assert (facts.hosts, facts.declared) == (("joe@a", "b"), True)
    assert rendezvous(facts.hosts, Path("/runs/a"), 1)["MASTER_ADDR"] == "a", "an address, without the user"


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("a slots=1\nb slots=4\n", {}, "has 1 slot for a"),
        ("a slots=2\nb slots=4\n", {"procs": None}, "set cluster.procs_per_node=2"),
        ("a\nb\nc\n", {}, "launcher.mpi.hostfile names 3 hosts"),
        ("a\nb\n", {"hosts": ["a", "b"]}, "stands beside launcher.mpi.hosts"),
    ],
)
def test_a_file_that_contradicts_the_recipe_is_refused(
    tmp_path: Path, text: str, changes: dict[str, object], said: str
) -> None:
    recipe = with_file(tmp_path / "hosts", text, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape(said)):
        MpiLauncher().facts(recipe)


def test_a_file_that_is_not_there_is_named_and_another_folder_finds_the_same(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        hosts_of(Recipe(launcher=Launcher(mpi=Mpi(hostfile=str(tmp_path / "none")))))
    (tmp_path / "hosts").write_text("a\nb\n")
    words = ["launcher=mpi", "cluster.nodes=2", "cluster.procs_per_node=1"]
    file = compose_recipe([*words, "launcher.mpi.hostfile=somewhere/hosts"]).launcher.mpi.hostfile
    assert file == str(Path("somewhere/hosts").absolute())


@pytest.mark.parametrize("flavor", ["openmpi", "mpich", "intel"])
def test_a_user_stands_before_the_host_and_not_in_the_rank_file(flavor: str) -> None:
    """All three call ssh with `joe@HOST`, tried with a stand-in; ranks are placed by the name alone."""
    plan = make_plan(flavor, user="joe", pin_masks=["0x1", "0x2"])
    assert plan.files["hostfile"].startswith("joe@node-0.cluster")
    assert plan.env["MASTER_ADDR"] == "node-0.cluster"
    assert "joe" not in plan.files.get("rankfile", "")
