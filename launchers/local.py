"""This machine: one worker a rank, under torchrun; a lone rank without it.

torchrun imports torch before it starts anything, which costs a lone rank 2.2 s (measured on two
cores at 2.5 GHz; 0.03 s without it) for a rendezvous that it does not need.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from galley import proc
from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunSpec, State
from launchers.base import Diagnosis, Launcher, job_environment
from launchers.command import (
    attempt_environment,
    rank_environment,
    torchrun,
    worker_arguments,
    worker_command,
)

if TYPE_CHECKING:
    import psutil

# What the agent of torch.distributed.run writes when it takes the surviving ranks down. It gives
# them 30 s, which no option shortens in this case.
_AGENT_CLOSING = re.compile(rb"Sending process \d+ closing signal")
_AGENT_LINE = re.compile(r"^[IWE]\d{4} \S+ \d+ torch/distributed", re.MULTILINE)
_AGENT_FAILURE = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)")
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 20


class LocalLauncher(Launcher):
    """Processes of this machine.

    Attributes:
        python: the interpreter of the workers.
    """

    name = "local"

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._children: dict[int, proc.Child] = {}

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        if recipe.cluster.nodes > 1:
            what = "launcher=local is this machine only"
            hint = "choose launcher=slurm, or cluster.nodes=1"
            raise ConfigError(Problem(f"cluster.nodes={recipe.cluster.nodes}", what, hint))
        return super().facts(recipe, earlier, after)

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        worker = worker_command(self.python, spec, run_dir)
        agent = torchrun(self.python, spec, ("--standalone",))
        return LaunchPlan(
            launcher=self.name,
            argv=worker if spec.layout.world_size == 1 else (*agent, *worker),
            env={**attempt_environment(attempt), **rank_environment(spec, run_dir)},
            forward_env=tuple(spec.recipe.launcher.forward_env),
            attempt=attempt,
        )

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        log = _launcher_log(folder, plan.attempt)
        child = proc.start(plan.argv, env=job_environment(plan), log=log, dies_with_parent=True)
        self._children[child.id.pid] = child
        return RunHandle(
            launcher=self.name,
            attempt=plan.attempt,
            job=str(child.id.pid),
            host=socket.gethostname(),
            started_at=time.time(),
            process_started_at=child.id.started_at,
        )

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        if handle.host != socket.gethostname():
            return "unknown"
        if self._roots(handle, folder):
            return "running"
        result = folder.read_result()
        return result.state if result is not None and result.attempts == handle.attempt else "failed"

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        return _AGENT_CLOSING.search(_tail(_launcher_log(folder, handle.attempt))) is not None

    def end_ranks(self, handle: RunHandle, folder: RunFolder) -> None:
        """Leaves torchrun's agent alone: only it knows which rank died first, and of what."""
        proc.terminate(lambda: [p for p in self._all(handle, folder) if p.pid != int(handle.job)], 0.0)

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        said = _tail(_launcher_log(folder, handle.attempt)).decode(errors="replace")
        failures = [(int(rank), int(code)) for rank, code in _AGENT_FAILURE.findall(said)]
        if folder.read_spec().layout.world_size == 1:
            child = self._children.get(int(handle.job))
            code = child.exit_code() if child is not None else None
            failures = [] if code is None else [(0, code)]
        return _diagnosis(failures, said)

    def logs(self, handle: RunHandle, folder: RunFolder, rank: int | None = None) -> list[Path]:
        every = sorted(folder.logs(handle.attempt).glob("rank-*.log"), key=_rank_of)
        ranks = every if rank is None else [folder.rank_log(handle.attempt, rank)]
        return [path for path in (*ranks, _launcher_log(folder, handle.attempt)) if path.exists()]

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        if handle.host == socket.gethostname():
            proc.terminate(lambda: self._all(handle, folder), grace_s, hurry)

    def _roots(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        """The process that was started; where it has ended, the workers that outlived it."""
        child = self._children.get(int(handle.job))
        if child is None or child.exit_code() is None:  # asking reaps it
            root = proc.ProcessId(int(handle.job), handle.process_started_at or 0.0).find()
            if root is not None:
                return [root]
        return proc.find_by_arguments(worker_arguments(folder.root))

    def _all(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        return [*self._roots(handle, folder), *proc.find_by_arguments(worker_arguments(folder.root))]


def _launcher_log(folder: RunFolder, attempt: int) -> Path:
    return folder.logs(attempt) / "launcher.log"


def _rank_of(log: Path) -> int:
    return int(log.stem.removeprefix("rank-"))


def _tail(log: Path) -> bytes:
    """The end of a log, where the agent's own report is; empty before there is one."""
    if not log.exists():
        return b""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return stream.read()


def _diagnosis(failures: list[tuple[int, int]], said: str) -> Diagnosis:
    """From (rank, exit code) pairs, the first observed failure last, as the agent reports them.

    A rank that a signal ended is the cause of what befell the others, unless the signal is the
    SIGTERM or SIGKILL by which the survivors were ended: those come after the first failure.
    """
    if not failures:
        return Diagnosis("the processes ended without a result" + _quote(said))
    killed = [pair for pair in failures if pair[1] < 0 and -pair[1] not in (signal.SIGTERM, signal.SIGKILL)]
    rank, code = killed[-1] if killed else failures[-1]
    if code >= 0:
        how = f"ended with {proc.describe_exit(code)}" if code else "ended without a result"
        return Diagnosis(f"rank {rank} {how}{_quote(said)}", rank)
    hint = " (when memory runs out the kernel does this: see `dmesg`)" if -code == signal.SIGKILL else ""
    return Diagnosis(f"rank {rank} was {proc.describe_exit(code)}{hint}", rank, "node")


def _quote(said: str) -> str:
    """The last lines that the processes wrote, without the agent's banner."""
    first = _AGENT_LINE.search(said)
    lines = said[: first.start() if first else None].strip().splitlines()[-_TAIL_LINES:]
    return "; they said:\n" + "\n".join(lines) if lines else ""
