"""This machine: one worker a rank, under torchrun; a lone rank without it.

torchrun imports torch before it starts anything, which costs a lone rank 2.2 s (measured on two
cores at 2.5 GHz; 0.03 s without it) for a rendezvous that it does not need.
"""

from __future__ import annotations

import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from galley.errors import ConfigError, Problem
from galley.paths import command
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.schema.types import MAX_PORT
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunSpec, State
from galley.system import proc
from galley.system.cluster_check import own_address
from launchers.base import Diagnosis, Job, JoiningNodes, Launcher, job_environment
from launchers.common import torchrun_log
from launchers.common.worker_command import (
    attempt_environment,
    elastic_conf,
    pin_environment,
    rank_environment,
    torchrun,
    worker_arguments,
    worker_command,
)

if TYPE_CHECKING:
    import psutil


# Beyond `last_call_s`: a lost agent has to be noticed, and the ranks of the others to end, first.
_ELASTIC_JOIN_S = 90
_RENDEZVOUS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")


class LocalLauncher(Launcher, JoiningNodes):
    """Processes of this machine; of several, where each of them runs a command of its own.

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
        problems = list(rendezvous_problems(recipe))
        if problems:
            raise ConfigError(problems)
        rendezvous = recipe.launcher.torchrun.rendezvous
        facts = super().facts(recipe, earlier, after)
        return replace(facts, address=own_address(rendezvous_host(rendezvous))) if rendezvous else facts

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        options, elastic = spec.recipe.launcher.torchrun, is_elastic(spec)
        worker = worker_command(self.python, spec, run_dir)
        nodes = f"{options.min_nodes or 1}:{options.max_nodes}" if elastic else None
        restarts = options.max_restarts if elastic else 0
        agent = torchrun(self.python, spec, _rendezvous(spec, facts, attempt), nodes, restarts)
        restarted = {"GALLEY_ELASTIC": "1", "GALLEY_RESUME": "1"} if elastic else {}
        return LaunchPlan(
            launcher=self.name,
            argv=worker if spec.layout.world_size == 1 and not elastic else (*agent, *worker),
            env={
                **attempt_environment(attempt),
                **restarted,
                **pin_environment(spec, facts),
                **rank_environment(spec, run_dir),
            },
            forward_env=tuple(spec.recipe.launcher.forward_env),
            attempt=attempt,
        )

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        return self.start(plan, folder.launcher_log(plan.attempt))

    def start(self, plan: LaunchPlan, log: Path) -> RunHandle:
        """Start the plan's command, which this process can then wait for."""
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

    def joining(self) -> JoiningNodes | None:
        return self

    def start_node(self, job: Job, node: int) -> Job:
        facts = replace(self.facts(job.spec.recipe, job.folder), node=node)
        plan = self.plan(job.spec, job.folder.root, facts, job.attempt)
        handle = self.start(plan, job.folder.launcher_log(job.attempt, node))
        return self.find_job(handle, job.folder, job.spec)

    def preloaded(self, spec: RunSpec) -> str | None:
        return "warm" if spec.layout.nodes == 1 else None

    def exit_code(self, handle: RunHandle) -> int | None:
        """Of a command that this process started and that has ended."""
        child = self._children.get(int(handle.job))
        return child.exit_code() if child is not None else None

    def invitation(self, spec: RunSpec, folder: RunFolder) -> str:
        nodes = range(1, spec.recipe.launcher.torchrun.max_nodes or spec.layout.nodes)
        lines = [
            f"on machine {node}: {command()} join {shlex.quote(str(folder.root))} {node}\n" for node in nodes
        ]
        return "".join(lines)

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        if handle.host != socket.gethostname():
            return "unknown"
        if self._roots(handle, folder):
            return "running"
        result = folder.read_result()
        return result.state if result is not None and result.attempts == handle.attempt else "failed"

    def end(self, handle: RunHandle) -> int | None:
        child = self._children.get(int(handle.job))
        return None if child is None else child.end

    def outlives_failures(self, spec: RunSpec) -> bool:
        return is_elastic(spec)

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        return torchrun_log.is_closing(folder.launcher_log(handle.attempt))

    def end_ranks(self, handle: RunHandle, folder: RunFolder) -> None:
        """Leaves torchrun's agent alone: only it knows which rank died first, and of what."""
        proc.terminate(lambda: [p for p in self._all(handle, folder) if p.pid != int(handle.job)], 0.0)

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        log = folder.launcher_log(handle.attempt)
        failures = torchrun_log.read_failures(log)
        if folder.read_attempt_spec(handle.attempt).layout.world_size == 1:
            code = self.exit_code(handle)
            failures = [] if code is None else [torchrun_log.Failure(0, code, was_told=False)]
        return torchrun_log.diagnose(failures, log)

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        if handle.host == socket.gethostname():
            proc.terminate(lambda: self._all(handle, folder), grace_s, hurry)

    def _roots(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        """The process that was started; where it has ended, the workers that outlived it."""
        return self._started(handle) or proc.find_by_arguments(worker_arguments(folder.root))

    def _started(self, handle: RunHandle) -> list[psutil.Process]:
        child = self._children.get(int(handle.job))
        if child is not None and child.exit_code() is not None:  # asking reaps it
            return []
        root = proc.ProcessId(int(handle.job), handle.process_started_at or 0.0).find()
        return [] if root is None else [root]

    def _all(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        return [*self._started(handle), *proc.find_by_arguments(worker_arguments(folder.root))]


def is_elastic(spec: RunSpec) -> bool:
    """Whether torchrun's agents replace ranks that fail."""
    launcher = spec.recipe.launcher
    return launcher.kind == LocalLauncher.name and launcher.torchrun.max_nodes is not None


def rendezvous_problems(recipe: Recipe) -> Iterator[Problem]:
    """Why torchrun's agents could not meet."""
    options, nodes = recipe.launcher.torchrun, recipe.cluster.nodes
    if (nodes > 1 or options.max_nodes) and not _RENDEZVOUS.fullmatch(options.rendezvous or ""):
        what = f"launcher.torchrun.rendezvous={options.rendezvous} is no place to meet"
        hint = "set it to HOST:PORT, a free port of this machine that the others reach"
        yield Problem(f"cluster.nodes={nodes}", what, hint)
    elif nodes > 1 or options.max_nodes:
        port = int((options.rendezvous or "").rpartition(":")[2])
        if not 0 < port <= MAX_PORT:
            hint = f"a free port of this machine, from 1 to {MAX_PORT}"
            yield Problem("launcher.torchrun.rendezvous", f"port {port} does not exist", hint)
    if options.max_nodes is None:
        return
    if not (options.min_nodes or 1) <= nodes <= options.max_nodes:
        what = f"{nodes} is not within {options.min_nodes or 1} … {options.max_nodes}"
        yield Problem("cluster.nodes", what, "launcher.torchrun.min_nodes and max_nodes are its bounds")
    if options.backend == "static":
        what = "'static' knows no machines that come and go"
        yield Problem("launcher.torchrun.backend", what, "an elastic run needs c10d")


def rendezvous_host(place: str) -> str:
    """The host of `HOST:PORT`, without the brackets of an IPv6 address."""
    return place.rpartition(":")[0].strip("[]")


def _rendezvous(spec: RunSpec, facts: ClusterFacts, attempt: int) -> tuple[str, ...]:
    """Where the agents meet. What torchrun would guess from the name of this machine is stated."""
    if spec.layout.nodes == 1 and not is_elastic(spec):
        return ("--standalone",)
    launcher = spec.recipe.launcher
    backend, last_call_s = launcher.torchrun.backend, launcher.torchrun.last_call_s
    wait_s, further = launcher.timeout_s, {}
    if is_elastic(spec):
        wait_s, further = max(wait_s, last_call_s + _ELASTIC_JOIN_S), elastic_conf(launcher, last_call_s)
    conf = {"is_host": str(int(facts.node == 0)), "join_timeout": str(wait_s), **further}
    c10d = ",".join(f"{key}={value}" for key, value in conf.items())
    return (
        f"--rdzv-backend={backend}",
        f"--rdzv-endpoint={spec.recipe.launcher.torchrun.rendezvous}",
        f"--rdzv-id={spec.sha256[:16]}-{attempt}",
        f"--local-addr={facts.address}",
        *((f"--rdzv-conf={c10d}",) if backend == "c10d" else (f"--node-rank={facts.node}",)),
    )
