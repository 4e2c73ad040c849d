"""The report of a real agent: which rank it names, and which one was the cause."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launchers.common import torchrun_log
from tests.integration.local.standin import environment

START = """
import os, signal, subprocess, sys, time
from pathlib import Path
rank, here = int(os.environ["RANK"]), Path(__file__).parent

def await_death(pid):
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.02)
"""
# The agent finds both ranks dead at one look, for it is stopped meanwhile; it looks at rank 0 first.
LOST_PEER = """
if rank == 1:
    (here / "part").write_text(str(os.getpid()))
    (here / "part").rename(here / "pid")
    while not (here / "stopped").exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
while not (here / "pid").exists():
    time.sleep(0.02)
agent, me = os.getppid(), os.getpid()
os.kill(agent, signal.SIGSTOP)
(here / "stopped").touch()
await_death(int((here / "pid").read_text()))
if os.fork() == 0:
    await_death(me)
    os.kill(agent, signal.SIGCONT)
    os._exit(0)
os._exit(4)
"""
# The other one dies of what the agent sends it.
TOLD_TO_END = """
if rank == 1:
    (here / "up").touch()
    time.sleep(600)
while not (here / "up").exists():
    time.sleep(0.02)
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("script", "seen", "message"),
    [
        (LOST_PEER, [(1, -9, False), (0, 4, False)], "rank 1 was killed by SIGKILL"),
        (TOLD_TO_END, [(1, -15, True), (0, 3, False)], "rank 0 ended with exit code 3"),
    ],
)
def test_a_killed_rank_is_the_cause_unless_the_agent_ended_it(
    tmp_path: Path, script: str, seen: list[tuple[int, int, bool]], message: str
) -> None:
    """What the agent takes for the first comes last."""
    worker, log = tmp_path / "worker.py", tmp_path / "launcher.log"
    worker.write_text(START + script)
    options = ["--standalone", "--nproc-per-node=2", "--monitor-interval=0.1"]
    argv = [sys.executable, "-P", "-m", "torch.distributed.run", *options, str(worker)]
    with log.open("w") as stream:
        subprocess.run(argv, env=environment(), stdout=stream, stderr=stream, timeout=100, check=False)
    failures = torchrun_log.read_failures(log)
    assert [(failure.rank, failure.exit_code, failure.was_told) for failure in failures] == seen
    assert torchrun_log.diagnose(failures, log).message.startswith(message)
