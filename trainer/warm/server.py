"""A warm server: holds the libraries, and forks a leader for each run that it is told of.

    python -P -m trainer.warm.server --socket FD

One JSON object a line in each direction over the inherited socket:

    {"run_dir", "arguments", "environ", "log"}  ->  {"pid"}  |  {"error"}

Ends when the other end of the socket closes, which the kernel does for a controller that is killed;
its leaders, and their ranks, are killed with it. It runs no collective, opens no CUDA context and
computes on one thread, so that it may be forked at any time.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# Before torch is imported: asking the driver's library for devices, not the driver, opens no context.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

from galley.lifetime import adopt_orphans, bound_to_me
from galley.rundir import RunFolder
from galley.trackers import LIBRARIES
from trainer import strategies, worker
from trainer.imports import MODULES
from trainer.warm import held, huge_pages, leader

# What a run imports between its start and its end, besides what `trainer.session` does.
PRELOAD = ("trainer.session", *MODULES, "trainer.backends.measure")


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
    with channel.makefile("rw", encoding="utf-8", newline="\n") as stream:
        for line in stream:
            reap()
            request = json.loads(line)
            prepare(Path(request["run_dir"]))
            pid = fork(channel, request)
            print(json.dumps({"pid": pid}), file=stream, flush=True)


def reap() -> None:
    """Leaders, and ranks that outlived theirs by a moment."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def prepare(run_dir: Path) -> None:
    """Have in memory what the run will need. The process boundary of loading in the server.

    Whatever goes wrong here goes wrong in the run too, which reports it.
    """
    try:
        spec = RunFolder(run_dir).read_spec()
        strategies.engine_class(spec.recipe.strategy)
        # Under every strategy: Transformers imports it when a model is saved.
        os.environ.setdefault("DS_ACCELERATOR", spec.layout.device)
        importlib.import_module("deepspeed")
        if spec.recipe.tracker.kind != "none":
            importlib.import_module(LIBRARIES[spec.recipe.tracker.kind])
        if held.hold(spec.recipe):
            huge_pages.collapse()
    except Exception as error:  # noqa: BLE001
        print(f"{run_dir}: not held: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # what is held is not looked at by the collectors of the runs: its pages stay shared


def fork(channel: socket.socket, request: dict[str, Any]) -> int:
    """The process id of the new leader."""
    bind = bound_to_me()
    pid = os.fork()
    if pid == 0:
        try:
            bind()
            _be_leader(channel, request)
        finally:
            traceback.print_exc()
            os._exit(1)
    return pid


def _be_leader(channel: socket.socket, request: dict[str, Any]) -> NoReturn:
    """In a session of its own, killed with the server, in the environment and code of the run."""
    os.setsid()
    channel.close()
    mine, its = os.environ.get("PYTHONPATH"), request["environ"]
    sys.path[:] = [its["PYTHONPATH"] if path == mine else path for path in sys.path]
    os.environ.clear()
    os.environ.update(its)
    worker.redirect_streams(Path(request["log"]))
    leader.main(request["arguments"])


if __name__ == "__main__":
    main()
