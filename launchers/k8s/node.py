"""The first process of a pod: starts the torchrun agent of one node, and shows what the ranks write.

    python -P -m launchers.k8s.node --run-dir D --attempt N --nodes N --procs-per-node P -- COMMAND…

Standard output is the pod's log (`launchers.k8s.relay` describes its lines). Ends like COMMAND, but
with 1 if the main rank left no result. SIGTERM is passed on; Kubernetes kills what has not ended
after the grace period.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder
from galley.system import proc
from launchers.k8s.relay import Tail, file_line

_EVERY_S = 0.5
# A PyTorchJob describes the node as if it were a rank. torchrun must not see these, nor the ranks
# before it has set them.
_OF_THE_NODE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OLD_NAMES = {"PET_NODE_RANK": "RANK", "PET_MASTER_ADDR": "MASTER_ADDR", "PET_MASTER_PORT": "MASTER_PORT"}


def agent_environment(environ: Mapping[str, str], nodes: int | None) -> dict[str, str]:
    """Return the agent's environment: the operator's `PET_*`, which torchrun reads, and nothing of a rank.

    `nodes` is None for an elastic job. Raises `ConfigError` if the operator started another
    number of pods, or did not set where they meet.
    """
    agent_environ = {name: value for name, value in environ.items() if name not in _OF_THE_NODE}
    for name, old in _OLD_NAMES.items():
        if old in environ:
            agent_environ.setdefault(name, environ[old])
    agent_environ["PYTHONUNBUFFERED"] = "1"
    if nodes is None:
        _require(agent_environ, ("PET_RDZV_ENDPOINT",))
        return agent_environ
    if agent_environ.pop("PET_NNODES", str(nodes)) != str(nodes):
        what = f"the operator started {environ['PET_NNODES']} pods, the run has {nodes} nodes"
        raise ConfigError(Problem("PET_NNODES", what, "start the run with the plan that was sealed with it"))
    agent_environ.pop("PET_NPROC_PER_NODE", None)
    if nodes > 1:
        _require(agent_environ, tuple(_OLD_NAMES))
    return agent_environ


def _require(environ: Mapping[str, str], names: Sequence[str]) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        hint = "the job must be a PyTorchJob, or a TrainJob whose runtime has mlPolicy.torch"
        raise ConfigError(Problem(" ".join(missing), "is not set in the pod", hint))


def shown_ranks(environ: Mapping[str, str], nodes: int | None, procs: int) -> range | None:
    """Return the ranks whose logs this pod shows; None for all.

    The pods of an elastic job do not know their ranks beforehand: the first one shows all.
    """
    if nodes is None:
        first = environ.get("PET_RDZV_ENDPOINT", "").rpartition(":")[0].partition(".")[0]
        return None if first == socket.gethostname() else range(0)
    node = int(environ.get("PET_NODE_RANK", "0"))
    return range(node * procs, (node + 1) * procs)


class Relay:
    """Copies the logs of ranks, and small files of the run, to standard output."""

    def __init__(self, folder: RunFolder, attempt: int, ranks: range | None, send_files: bool) -> None:
        self._folder = folder
        self._logs = folder.logs(attempt)
        self._ranks = ranks
        self._tails: dict[Path, Tail] = {}
        self._sent: dict[Path, str] = {}
        self._metrics = Tail(folder.metrics_file)
        self._send_files = send_files

    def pump(self, agent_log: Path, last: bool = False) -> None:
        """Show what is new; with `last` also a line that has no end."""
        self._show(agent_log, "[agent] ", last)
        for path in sorted(self._logs.glob("rank-*.log")):
            rank = path.stem.removeprefix("rank-")
            if rank.isdigit() and (self._ranks is None or int(rank) in self._ranks):
                self._show(path, f"[rank {rank}] ", last)
        if self._send_files:
            self._send()
        sys.stdout.flush()

    def _show(self, path: Path, prefix: str, last: bool) -> None:
        for line in self._tails.setdefault(path, Tail(path)).read(last).splitlines():
            print(f"{prefix}{line}")

    def _send(self) -> None:
        for path in sorted(self._logs.glob("rank-*.error.json")):
            if self._ranks is None or int(path.name.split(".")[0].removeprefix("rank-")) in self._ranks:
                self._send_whole(path)
        if self._ranks is None or 0 in self._ranks:
            before = self._metrics.position
            rows = self._metrics.read()
            if rows:
                at = before if self._metrics.position > before else 0
                print(file_line("metrics.jsonl", at, rows))
            self._send_whole(self._folder.progress_file)
            self._send_whole(self._folder.result_file)

    def _send_whole(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        if self._sent.get(path) != text:
            self._sent[path] = text
            print(file_line(path.relative_to(self._folder.root).as_posix(), 0, text))


def main() -> int:
    parser = argparse.ArgumentParser(prog="launchers.k8s.node")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--nodes", type=int)
    size.add_argument("--elastic", action="store_true")
    parser.add_argument("--procs-per-node", type=int, required=True)
    parser.add_argument("--send-files", action="store_true")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    try:
        environ = agent_environment(os.environ, arguments.nodes)
    except ConfigError as error:
        print(f"[agent] {error}", flush=True)
        return error.exit_code

    folder = RunFolder(arguments.run_dir)
    ranks = shown_ranks(environ, arguments.nodes, arguments.procs_per_node)
    agent_log = folder.logs(arguments.attempt) / f"agent-{socket.gethostname()}.log"
    relay = Relay(folder, arguments.attempt, ranks, arguments.send_files)

    code = run(arguments.command, environ, agent_log, relay)
    has_main = ranks is None or 0 in ranks
    if code == 0 and has_main and not folder.has_result(arguments.attempt):
        print("[agent] the ranks ended without a result", flush=True)
        return 1
    return code if code >= 0 else 128 - code


def run(command: Sequence[str], environ: Mapping[str, str], agent_log: Path, relay: Relay) -> int:
    """Run the command; return its exit code, negative if a signal ended it."""
    child = proc.start(command, env=environ, log=agent_log, dies_with_parent=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process = child.id.find()
        if process is not None:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while (code := child.exit_code()) is None:
        relay.pump(agent_log)
        time.sleep(_EVERY_S)
    relay.pump(agent_log, last=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
