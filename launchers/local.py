"""This machine: one worker a rank, under torchrun; a lone rank without it.

torchrun imports torch before it starts anything, which costs a lone rank 2.2 s (measured on two
cores at 2.5 GHz; 0.03 s without it) for a rendezvous that it does not need.
"""

from __future__ import annotations

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
from launchers import agent_log
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
            hint = "choose launcher=slurm or launcher=mpi, or cluster.nodes=1"
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
        log = folder.launcher_log(plan.attempt)
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
        return agent_log.is_closing(folder.launcher_log(handle.attempt))

    def end_ranks(self, handle: RunHandle, folder: RunFolder) -> None:
        """Leaves torchrun's agent alone: only it knows which rank died first, and of what."""
        proc.terminate(lambda: [p for p in self._all(handle, folder) if p.pid != int(handle.job)], 0.0)

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        log = folder.launcher_log(handle.attempt)
        failures = agent_log.read_failures(log)
        if folder.read_spec().layout.world_size == 1:
            child = self._children.get(int(handle.job))
            code = child.exit_code() if child is not None else None
            failures = [] if code is None else [(0, code)]
        return agent_log.diagnose(failures, log)

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
