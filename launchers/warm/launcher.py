"""This machine, without imports: runs are forked from servers that hold torch, model and data.

A run is the same as under `launcher=local`, bit for bit, and starts in a fraction of a second instead
of in seconds. The servers, and the runs that they forked, end with this process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from galley.errors import ConfigError, Problem, SubmissionError
from galley.rundir import RunFolder
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunSpec
from galley.system import ipc, proc
from launchers.base import Diagnosis, job_environment
from launchers.common import torchrun_log
from launchers.common.worker_command import attempt_environment, rank_environment, worker_arguments
from launchers.local.launcher import LocalLauncher

if TYPE_CHECKING:
    import psutil

MAX_SERVERS = 4
LOAD_TIMEOUT_S = 1800.0  # imports, and a model that the first run of a server may have to download
# Variables that a forked process may be given; any other acts when a process starts, and so has
# a server of its own.
_SET_AFTER_FORK = frozenset(
    {"GALLEY_ATTEMPT", "GALLEY_RESUME", "PYTHONPATH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
)


@dataclass
class _Leader:
    """The process with which a run ends.

    Attributes:
        end: where it says that nothing but its end is left to do; null once that was heard, or it has ended.
    """

    id: proc.ProcessId
    end: int | None
    _is_done: bool = False

    def is_done(self) -> bool:
        """Whether it has said so."""
        if self.end is not None:
            with suppress(BlockingIOError):  # not yet
                self._is_done = bool(os.read(self.end, 1))
                self.close()
        return self._is_done

    def close(self) -> None:
        if self.end is not None:
            os.close(self.end)
            self.end = None


@dataclass
class _Server:
    """One server, and the leaders that it has forked."""

    child: proc.Child
    channel: socket.socket
    log: Path
    leaders: list[_Leader]

    def ask(self, request: dict[str, Any], file: int) -> dict[str, Any] | None:
        """Its answer; None where it is gone. Raises `TimeoutError`."""
        try:
            ipc.send(self.channel, request, [file])
            answer = ipc.receive(self.channel)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return None if answer is None else answer.said

    def is_busy(self) -> bool:
        self.leaders = [leader for leader in self.leaders if leader.id.find() is not None]
        return bool(self.leaders)


class WarmLauncher(LocalLauncher):
    """The ranks of one machine, forked. `close` ends the servers and whatever they still run."""

    name = "warm"

    def __init__(self, python: str = sys.executable) -> None:
        super().__init__(python)
        self._servers: OrderedDict[str, _Server] = OrderedDict()
        self._leaders: dict[int, _Leader] = {}

    def __enter__(self) -> WarmLauncher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        """The leader's command: forked, it does what it would do if it were executed."""
        if spec.layout.nodes > 1:
            what = "warm trials run on one machine"
            raise ConfigError(Problem(f"cluster.nodes={spec.layout.nodes}", what, "set hpo.warm=false"))
        return LaunchPlan(
            launcher=self.name,
            argv=(
                *(self.python, "-P", "-m", "trainer.warm.leader"),
                *("--ranks", str(spec.layout.world_size)),
                *worker_arguments(run_dir),
                *("--sha256", spec.sha256),
            ),
            env={**attempt_environment(attempt), **rank_environment(spec, run_dir)},
            forward_env=tuple(spec.recipe.launcher.forward_env),
            attempt=attempt,
        )

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        """Returns once the run is forked, which for the first run of a server is after the imports."""
        request = {
            "run_dir": str(folder.root),
            "arguments": plan.argv[plan.argv.index("-m") + 2 :],
            "environ": job_environment(plan),
            "log": str(folder.launcher_log(plan.attempt)),
        }
        end, says_end = os.pipe()
        os.set_blocking(end, False)
        try:
            return self._handle(plan, *self._fork(plan, folder, request, says_end), end)
        except BaseException:
            os.close(end)
            raise
        finally:
            os.close(says_end)

    def _fork(
        self, plan: LaunchPlan, folder: RunFolder, request: dict[str, Any], says_end: int
    ) -> tuple[_Server, int]:
        """The server, and the leader's process id."""
        key = _server_key(plan, folder)
        server = self._server(key, plan, folder)
        answer = server.ask(request, says_end)
        if answer is None:  # it has died since the last run
            self._drop(key)
            server = self._server(key, plan, folder)
            answer = server.ask(request, says_end)
        if answer is None:
            self._drop(key)
            said = server.log.read_text(errors="replace").strip()
            raise SubmissionError(f"the warm server ended before it forked the run: {said or server.log}")
        return server, int(answer["pid"])

    def joining(self) -> None:
        return None

    def preloaded(self, spec: RunSpec) -> None:
        return None

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        return bool(torchrun_log.read_failures(folder.launcher_log(handle.attempt)))

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        log = folder.launcher_log(handle.attempt)
        return torchrun_log.diagnose(torchrun_log.read_failures(log)[::-1], log)

    def close(self) -> None:
        """End all servers; runs that live are killed."""
        for key in list(self._servers):
            self._drop(key)
        for leader in self._leaders.values():
            leader.close()

    def end(self, handle: RunHandle) -> int | None:
        leader = self._leaders.get(int(handle.job))
        return None if leader is None else leader.end

    def _roots(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        return self._all(handle, folder)

    def _all(self, handle: RunHandle, folder: RunFolder) -> list[psutil.Process]:
        """Ranks end with their leader: under one of this process no others need be searched for."""
        mine = int(handle.job) in self._leaders
        return self._started(handle) if mine else super()._all(handle, folder)

    def _started(self, handle: RunHandle) -> list[psutil.Process]:
        leader = self._leaders.get(int(handle.job))
        return [] if leader is not None and leader.is_done() else super()._started(handle)

    def _handle(self, plan: LaunchPlan, server: _Server, pid: int, end: int) -> RunHandle:
        import psutil

        leader = _Leader(proc.ProcessId(pid, psutil.Process(pid).create_time()), end)
        server.leaders.append(leader)
        self._leaders[pid] = leader
        return RunHandle(
            launcher=self.name,
            attempt=plan.attempt,
            job=str(pid),
            host=socket.gethostname(),
            started_at=time.time(),
            process_started_at=leader.id.started_at,
        )

    def _server(self, key: str, plan: LaunchPlan, folder: RunFolder) -> _Server:
        """The living server of this key; of those that are idle, the least used makes room."""
        if key in self._servers and self._servers[key].child.exit_code() is None:
            self._servers.move_to_end(key)
            return self._servers[key]
        self._drop(key)
        idle = [name for name, server in self._servers.items() if not server.is_busy()]
        for name in idle[: max(0, len(self._servers) + 1 - MAX_SERVERS)]:
            self._drop(name)
        self._servers[key] = self._start(plan, folder)
        return self._servers[key]

    def _start(self, plan: LaunchPlan, folder: RunFolder) -> _Server:
        ours, theirs = socket.socketpair()
        ours.settimeout(LOAD_TIMEOUT_S)
        log = folder.logs(plan.attempt) / "warm-server.log"
        with theirs:
            argv = (self.python, "-P", "-m", "trainer.warm.server", "--socket", str(theirs.fileno()))
            child = proc.start(
                argv, env=job_environment(plan), log=log, dies_with_parent=True, pass_fds=(theirs.fileno(),)
            )
        return _Server(child, ours, log, [])

    def _drop(self, key: str) -> None:
        server = self._servers.pop(key, None)
        if server is not None:
            server.channel.close()
            proc.terminate(lambda: [p for p in [server.child.id.find()] if p is not None], grace_s=1.0)
            server.child.exit_code()  # reaps it


def _server_key(plan: LaunchPlan, folder: RunFolder) -> str:
    """Equal for runs that one server can fork: the same code in the same environment."""
    env = {name: value for name, value in plan.env.items() if name not in _SET_AFTER_FORK}
    return json.dumps([folder.read_spec().code.sha256, env], sort_keys=True)
