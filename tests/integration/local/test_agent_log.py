"""The report of a real agent: which rank it names, and which one was the cause."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launchers import agent_log
from tests.integration.local.standin import environment

START = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
"""
# The agent looks so rarely that it finds both ranks dead; rank 0 is the one that it looks at first.
LOST_PEER = START + "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else sys.exit(4)\n"
# The other one dies of what the agent sends it.
TOLD_TO_END = START + "time.sleep(600) if rank == 1 else sys.exit(3)\n"


@pytest.mark.parametrize(
    ("script", "seen", "message"),
    [
        (LOST_PEER, {(0, 4, False), (1, -9, False)}, "rank 1 was killed by SIGKILL"),
        (TOLD_TO_END, {(0, 3, False), (1, -15, True)}, "rank 0 ended with exit code 3"),
    ],
)
def test_a_killed_rank_is_the_cause_unless_the_agent_ended_it(
    tmp_path: Path, script: str, seen: set[tuple[int, int, bool]], message: str
) -> None:
    worker, log = tmp_path / "worker.py", tmp_path / "launcher.log"
    worker.write_text(script)
    options = ["--standalone", "--nproc-per-node=2", "--monitor-interval=2"]
    argv = [sys.executable, "-P", "-m", "torch.distributed.run", *options, str(worker)]
    with log.open("w") as stream:
        subprocess.run(argv, env=environment(), stdout=stream, stderr=stream, timeout=100, check=False)
    failures = agent_log.read_failures(log)
    assert {(failure.rank, failure.exit_code, failure.was_told) for failure in failures} == seen
    assert failures[-1].rank == 0, "what the agent takes for the first"
    assert agent_log.diagnose(failures, log).message.startswith(message)
