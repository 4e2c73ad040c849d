"""One run over two hosts, by torchrun and by mpirun; and what happens when the cable is cut.

The runs of a test are under way at the same time, on the same hosts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from tests.integration.hosts.lab import ADDRESSES, Lab, RemoteShell
from tests.integration.local.standin import wait_until
from tests.integration.mpi.flavors import find
from tests.integration.reference import SMALL_BERT, TINY, losses
from tests.support import REPO, run_galley, run_process

TRAIN = (sys.executable, "-P", str(REPO / "train.py"))
TWO_HOSTS = ("cluster.nodes=2", "cluster.procs_per_node=1")


class Started:
    """A run that was started on the first host, and joined on the second where that is needed."""

    def __init__(self, lab: Lab, root: Path, *words: str) -> None:
        self.lab = lab
        self.folder = RunFolder(root)
        self.commands = [self._start(0, *TINY, *TWO_HOSTS, *words, f"run_dir={root}", "--json")]

    def _start(self, host: int, *words: str) -> subprocess.Popen[str]:
        return self.lab.start(host, *TRAIN, *words)

    def join(self) -> None:
        wait_until(self.folder.launcher_log(1).exists, 200)
        self.commands.append(self._start(1, "join", str(self.folder.root), "1"))

    def end(self) -> tuple[list[int], dict[str, Any], str]:
        """Exit codes of the commands, the result, and what the first command said."""
        said = [command.communicate(timeout=280) for command in self.commands]
        out, err = said[0]
        return [command.returncode for command in self.commands], json.loads(out.splitlines()[-1]), err


def torchrun(backend: str, port: int) -> tuple[str, ...]:
    place = f"launcher.torchrun.rendezvous={ADDRESSES[0]}:{port}"
    return (place, f"launcher.torchrun.backend={backend}")


def mpirun(flavor: str, shell: RemoteShell) -> tuple[str, ...]:
    find(flavor)
    hydra = f'"-launcher","ssh","-launcher-exec","{shell.program}"'
    agent = {
        "openmpi": f'["--mca","plm_rsh_agent","{shell.program}"]',
        "mpich": f"[{hydra}]",
        "intel": f'["-iface","eth0",{hydra}]',  # else it calls this host by a name that nobody resolves
    }
    hosts = f"launcher.mpi.hosts=[{','.join(ADDRESSES)}]"
    return ("launcher=mpi", f"launcher.mpi.flavor={flavor}", hosts, f"launcher.mpi.options={agent[flavor]}")


@pytest.fixture
def shell(lab: Lab, tmp_path: Path) -> Any:
    shell = RemoteShell(lab, tmp_path)
    yield shell
    shell.close()


def test_two_hosts_train_as_two_ranks_of_one(
    lab: Lab, shell: RemoteShell, tmp_path: Path, two_ranks_here: Path
) -> None:
    runs = {
        "torchrun": Started(lab, tmp_path / "torchrun", *SMALL_BERT, *torchrun("static", 29512)),
        "intel": Started(lab, tmp_path / "intel", *SMALL_BERT, *mpirun("intel", shell)),
    }
    runs["torchrun"].join()
    for name, run in runs.items():
        codes, result, said = run.end()
        assert set(codes) == {0}, said
        assert result["world_size"] == 2
        assert losses(run.folder.root) == pytest.approx(losses(two_ranks_here), rel=1e-6)
        logs = [run.folder.rank_log(1, rank).read_text() for rank in range(2)]
        assert not any("cannot be watched" in log for log in logs)
        joins = f"on machine 1: python train.py join {run.folder.root} 1" in said
        assert joins == (name == "torchrun"), "mpirun reaches the other host itself"


@pytest.mark.timeout(900)
def test_when_the_cable_is_cut_everything_ends_and_the_missing_host_is_named(
    lab: Lab, shell: RemoteShell, tmp_path: Path
) -> None:
    endless = ("train.max_steps=100000", "train.epochs=100000", "launcher.host_timeout_s=10")
    ways = {"torchrun": torchrun("c10d", 29513)}
    ways |= {flavor: mpirun(flavor, shell) for flavor in ("openmpi", "mpich")}
    runs = {name: Started(lab, tmp_path / name, *words, *endless) for name, words in ways.items()}
    runs["torchrun"].join()
    for run in runs.values():
        wait_until(lambda folder=run.folder: len(list(folder.read_metrics())) > 1, 280)
    lab.cut()
    cut_at = time.monotonic()
    ended = {name: run.end() for name, run in runs.items()}
    while time.monotonic() - cut_at < 60 and (lab.processes(0) or lab.processes(1)):
        time.sleep(0.1)
    assert not [command for host in (0, 1) for command in lab.commands(host)]
    assert time.monotonic() - cut_at < 60
    for name, (codes, result, said) in ended.items():
        assert set(codes) == {4}, (name, said)
        assert result["failure_class"] in ("hang", "node")
        named = [host in result["message"] for host in (*lab.hosts, *ADDRESSES)]
        assert "no answer from " in result["message"], (name, said)
        assert any(named), (name, said)


@pytest.mark.timeout(900)
def test_an_elastic_run_goes_on_without_the_machine_that_was_lost(lab: Lab, tmp_path: Path) -> None:
    bounds = ("launcher.torchrun.min_nodes=1", "launcher.torchrun.max_nodes=2")
    patience = ("launcher.torchrun.last_call_s=4", "launcher.host_timeout_s=12")
    length = ("train.max_steps=20", "train.epochs=100", "checkpoint.every_steps=4", "checkpoint.keep=1")
    run = Started(lab, tmp_path / "run", *torchrun("c10d", 29514), *bounds, *patience, *length)
    run.join()
    wait_until(lambda: list(run.folder.checkpoints.glob("step-*/manifest.json")), 280)
    for pid in lab.processes(1):
        run_process(["kill", "-9", pid])
    codes, result, said = run.end()
    assert codes[0] == 0, said
    assert (result["state"], result["steps"], result["world_size"]) == ("succeeded", 20, 1)
    assert result["batch"] == {"global_size": 32, "micro_size": 16, "accumulation": 2}
    assert result["resumed_from"].startswith("step-")


def test_a_machine_that_the_run_does_not_have_is_refused(tmp_path: Path) -> None:
    done = run_galley(["join", str(tmp_path), "1"])
    assert done.rc == 2
    assert "is no run" in done.err
