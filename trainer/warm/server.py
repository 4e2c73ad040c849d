"""A warm server: holds the libraries, and forks a leader and ranks for each run that it is told of.

    python -P -m trainer.warm.server --socket FD

Over the inherited socket (`galley.system.ipc`), with a file into which the leader writes a byte where
the run's ranks have done all that they had to:

    {"run_dir", "arguments", "environ", "log"}  ->  {"pid"}

Ends when the other end of the socket closes, which the kernel does for a controller that is killed;
its leaders, and their ranks, are killed with it. It runs no collective, opens no CUDA context and
computes on one thread, so that it may be forked at any time.

A crew, which is a leader with its ranks, is forked before it is needed, while the run before it trains.
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

# Before torch is imported: asking the driver's library for devices, not the driver, opens no context.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

from galley.rundir import RunFolder
from galley.system import ipc
from galley.system.pdeathsig import adopt_orphans, bound_to_me
from galley.trackers import LIBRARIES
from trainer import engines
from trainer.run.warm_imports import MODULES
from trainer.warm import huge_pages, leader, preloaded

# What a run imports between its start and its end, besides what `trainer.run.session` does.
PRELOAD = ("trainer.run.session", *MODULES, "trainer.backends.measure")
FORK_AHEAD_AFTER_S = 0.3  # a run that starts has the cores to itself


def main() -> None:
    parser = argparse.ArgumentParser(prog="trainer.warm.server")
    parser.add_argument("--socket", type=int, required=True)
    channel = socket.socket(fileno=parser.parse_args().socket)
    torch.set_num_threads(1)  # a pool of threads would not survive the fork; a run sets its own
    for name in PRELOAD:
        importlib.import_module(name)
    serve(channel)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other end is gone."""
    adopt_orphans()
    news = select.poll()
    news.register(channel, select.POLLIN)
    crew: Crew | None = None
    num_ranks = 0
    while True:
        if num_ranks and crew is None and not news.poll(FORK_AHEAD_AFTER_S * 1000):
            with suppress(OSError):  # the run before must not end for it; the next one will say so
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
    """Leaders, and ranks that outlived theirs by a moment."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def prepare(run_dir: Path) -> bool:
    """Have in memory what the run will need; whether something was not there. The process boundary of loading
    in the server.

    Whatever goes wrong here goes wrong in the run too, which reports it.
    """
    is_new = False
    try:
        spec = RunFolder(run_dir).read_spec()
        engines.engine_class(spec.recipe.strategy)
        # Under every strategy: Transformers imports it when a model is saved.
        os.environ.setdefault("DS_ACCELERATOR", spec.layout.device)
        importlib.import_module("deepspeed")
        if spec.recipe.tracker.kind in LIBRARIES:
            importlib.import_module(LIBRARIES[spec.recipe.tracker.kind])
        is_new = preloaded.hold(spec.recipe)
        if is_new:
            huge_pages.collapse()
    except Exception as error:  # noqa: BLE001
        print(f"{run_dir}: not held: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # what is held is not looked at by the collectors of the runs: its pages stay shared
    return is_new


@dataclass(frozen=True)
class Crew:
    """A leader and its ranks, which wait for a run: one."""

    pid: int
    num_ranks: int
    orders: socket.socket

    def begin(self, run: ipc.Message) -> bool:
        """Whether it was told; otherwise its leader has died."""
        with self.orders:
            try:
                ipc.send(self.orders, run.said, run.files)
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def dismiss(self) -> None:
        self.orders.close()


def fork_crew(channel: socket.socket, num_ranks: int) -> Crew:
    bind = bound_to_me()
    heard, orders = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            bind()
            orders.close()
            channel.close()
            os.setsid()
            leader.lead(heard, num_ranks)
        finally:
            traceback.print_exc()
            os._exit(1)
    heard.close()
    return Crew(pid, num_ranks, orders)


if __name__ == "__main__":
    main()
