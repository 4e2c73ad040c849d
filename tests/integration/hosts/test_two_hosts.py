"""One run over two hosts, by torchrun and by mpirun; and what happens when the cable is cut."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from tests.integration.hosts.lab import ADDRESSES, Lab
from tests.integration.local.standin import wait_until
from tests.support import REPO, run_galley

TRAIN = (sys.executable, "-P", str(REPO / "train.py"))
QUICKSTART = ("profile=small", "train.log_every_steps=2", "eval.enabled=false", "cluster.device=cpu")
TWO_HOSTS = (
    "cluster.nodes=2", "cluster.procs_per_node=1", "cluster.threads_per_proc=1", "launcher.timeout_s=15",
    "+launcher.env.GLOO_SOCKET_IFNAME=eth0", f"launcher.torchrun.rendezvous={ADDRESSES[0]}:29512",
)  # fmt: skip


def run_on_first(lab: Lab, run_dir: Path, *words: str) -> Any:
    return lab.start(0, *TRAIN, *QUICKSTART, *TWO_HOSTS, *words, f"run_dir={run_dir}", "--json")


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_two_hosts_train_as_two_ranks_of_one(lab: Lab, tmp_path: Path, backend: str) -> None:
    words = ("train.max_steps=4", f"launcher.torchrun.backend={backend}")
    first = run_on_first(lab, tmp_path / "run", *words)
    wait_until(RunFolder(tmp_path / "run").launcher_log(1).exists, 120)
    second = lab.start(1, *TRAIN, "join", str(tmp_path / "run"), "1")
    out, err = first.communicate(timeout=200)
    assert first.returncode == 0, err
    assert f"on machine 1: python train.py join {tmp_path}/run 1" in err
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    here = run_galley(
        [*QUICKSTART, words[0], "cluster.procs_per_node=2", "cluster.threads_per_proc=1",
         f"run_dir={tmp_path}/here", "--json"], timeout=200
    )  # fmt: skip
    there, alone = (json.loads(text.splitlines()[-1]) for text in (out, here.out))
    assert there["metrics"]["train/loss"] == pytest.approx(alone["metrics"]["train/loss"], abs=1e-6)
    assert there["world_size"] == 2


def test_when_the_cable_is_cut_everything_ends_and_the_missing_host_is_named(
    lab: Lab, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    first = run_on_first(lab, folder.root, "train.epochs=100")
    wait_until(folder.launcher_log(1).exists, 120)
    second = lab.start(1, *TRAIN, "join", str(folder.root), "1")
    wait_until(lambda: len(list(folder.read_metrics())) > 1, 200)
    lab.cut()
    cut_at = time.monotonic()
    out, err = first.communicate(timeout=90)
    second.communicate(timeout=90)
    assert time.monotonic() - cut_at < 60
    assert (first.returncode, second.returncode) == (4, 4), err
    wait_until(lambda: not lab.processes(0) and not lab.processes(1), 5)
    result = json.loads(out.splitlines()[-1])
    assert result["failure_class"] in ("hang", "node")
    assert any(f"no answer from {host} ({address})" in result["message"]
               for host, address in zip(lab.hosts, ADDRESSES, strict=True)), result["message"]  # fmt: skip


def test_a_machine_that_the_run_does_not_have_is_refused(tmp_path: Path) -> None:
    done = run_galley(["join", str(tmp_path), "1"])
    assert done.rc == 2
    assert "is no run" in done.err
