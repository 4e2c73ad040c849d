"""A warm server: holds the libraries in memory, and forks a leader and ranks for each run.

    python -P -m trainer.warm.server --socket FD

Messages over the inherited socket (`galley.system.ipc`), with a file into which the leader writes a byte
once the run's ranks have only to end:

    {"run_dir", "arguments", "environ", "log"}  ->  {"pid"}

The server ends when the other end of the socket closes, which the kernel does for a controller that is
killed; its leaders, and their ranks, are killed with it. It runs no collective, opens no CUDA context and
computes on one thread, so that it may be forked at any time.

A crew, which is a leader with its ranks, is forked ahead of time, while the run before it trains.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import select
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Set before torch is imported. torch then counts GPUs through NVML, which opens no CUDA context: a process
# that has one must not be forked.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

from galley.registry import TRACKERS
from galley.rundir import RunFolder
from galley.system import ipc
from galley.system.pdeathsig import adopt_orphans, bound_to_me
from trainer import engines
from trainer.run.warm_imports import MODULES
from trainer.warm import huge_pages, leader, preloaded

# Modules that a run imports between its start and its end, besides the imports of `trainer.run.session`.
PRELOAD = ("trainer.run.session", *MODULES, "trainer.backends.measure")
FORK_AHEAD_AFTER_S = 0.3  # so that a run that starts has the cores to itself


def main() -> None:
    """Load the libraries and serve."""
    parser = argparse.ArgumentParser(prog="trainer.warm.server")
    parser.add_argument("--socket", type=int, required=True)
    channel = socket.socket(fileno=parser.parse_args().socket)
    torch.set_num_threads(1)  # a pool of threads would not survive the fork; a run sets its own number
    for name in PRELOAD:
        importlib.import_module(name)
    serve(channel)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other end closes."""
    adopt_orphans()
    news = select.poll()
    news.register(channel, select.POLLIN)
    crew: Crew | None = None
    num_ranks = 0
    while True:
        if num_ranks and crew is None and not news.poll(FORK_AHEAD_AFTER_S * 1000):
            with suppress(OSError):  # a failed fork must not end the current run; the next request reports it
                crew = fork_crew(channel, num_ranks)

        message = ipc.receive(channel)
        if message is None:
            return

        reap()
        num_ranks, message.said["arguments"] = leader.ranks_of(message.said["arguments"])
        is_new = prepare(Path(message.said["run_dir"]))

        if crew is not None and (is_new or crew.num_ranks != num_ranks):
            crew.dismiss()
            crew = None
        if crew is None or not crew.begin(message):
            crew = fork_crew(channel, num_ranks)
            crew.begin(message)

        ipc.send(channel, {"pid": crew.pid})
        for file in message.files:
            os.close(file)
        crew = None


def reap() -> None:
    """Collect the exit status of leaders, and of ranks that outlived their leader by a moment."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def prepare(run_dir: Path) -> bool:
    """Load what the run will need; return whether something was new. The process boundary of loading.

    An error is only logged: the run meets it too, and reports it.
    """
    is_new = False
    try:
        spec = RunFolder(run_dir).read_spec()
        engines.engine_class(spec.recipe.strategy)
        # Under every strategy, since Transformers imports DeepSpeed when a model is saved.
        os.environ.setdefault("DS_ACCELERATOR", spec.layout.device)
        importlib.import_module("deepspeed")
        if spec.recipe.tracker.kind in TRACKERS.libraries:
            importlib.import_module(TRACKERS.libraries[spec.recipe.tracker.kind])
        is_new = preloaded.hold(spec.recipe)
        if is_new:
            huge_pages.collapse()
    except Exception as error:  # noqa: BLE001
        print(f"{run_dir}: not held: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    gc.collect()
    # The garbage collectors of the forked runs skip frozen objects, so that their pages stay shared.
    gc.freeze()
    return is_new


@dataclass(frozen=True)
class Crew:
    """A leader and its ranks, which wait for one run."""

    pid: int
    num_ranks: int
    orders: socket.socket

    def begin(self, run: ipc.Message) -> bool:
        """Send the run to the crew; return whether it arrived. Otherwise the leader has died."""
        with self.orders:
            try:
                ipc.send(self.orders, run.said, run.files)
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def dismiss(self) -> None:
        """End the crew: a leader whose socket closes before a run comes ends itself and its ranks."""
        self.orders.close()


def fork_crew(channel: socket.socket, num_ranks: int) -> Crew:
    """Fork a leader, which forks its ranks."""
    bind = bound_to_me()
    leader_end, orders = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            bind()
            orders.close()
            channel.close()
            os.setsid()
            leader.lead(leader_end, num_ranks)
        finally:
            traceback.print_exc()
            os._exit(1)
    leader_end.close()
    return Crew(pid, num_ranks, orders)


if __name__ == "__main__":
    main()
