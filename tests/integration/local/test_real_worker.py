"""The real command, torchrun and worker together: a run that is hurt, and its resumption."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from galley.rundir import RunFolder
from tests.integration.local.standin import end_all, environment, processes_of, wait_until
from tests.support import REPO, run_galley

# A step lasts so long that many are left when the first checkpoint is seen.
STEPS = 30
OVERRIDES = [
    "data.max_samples=64", "batch.global_size=32", "train.epochs=100", f"train.max_steps={STEPS}",
    "train.log_every_steps=1", "eval.enabled=false", "checkpoint.every_steps=2", "model.from_config=true",
    "model.config={hidden_size: 64, num_attention_heads: 2, intermediate_size: 256}",
]  # fmt: skip


def rank_process(folder: RunFolder, rank: int) -> psutil.Process:
    """The worker of one rank, not the agent above it."""
    return next(p for p in processes_of(folder) if p.environ().get("RANK") == str(rank))


@pytest.mark.timeout(600)
def test_a_killed_rank_is_named_and_the_run_resumed(weird_tmp_path: Path) -> None:
    folder = RunFolder(weird_tmp_path / "run")
    argv = [sys.executable, "-P", str(REPO / "train.py"), f"run_dir={quote(str(folder.root))}", *OVERRIDES]
    command = subprocess.Popen(
        argv, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: any(folder.checkpoints.glob("*/manifest.json")), timeout=200)
        rank_process(folder, 1).send_signal(signal.SIGKILL)
        out, err = command.communicate(timeout=30)
    finally:
        end_all(folder)
    assert command.returncode == 4, out + err
    assert "rank 1 was killed by SIGKILL" in err
    result = folder.read_result()
    assert result is not None
    assert (result.state, result.first_failed_rank, result.failure_class) == ("failed", 1, "node")
    assert processes_of(folder) == []
    resumed = run_galley(["resume", folder.root, "--json"], timeout=200)
    assert resumed.rc == 0, resumed.err
    result = folder.read_result()
    assert result is not None
    assert (result.state, result.attempts, result.steps) == ("succeeded", 2, STEPS)
    assert result.resumed_from is not None


def quote(path: str) -> str:
    """A path as a value of a Hydra override."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
