"""The ranks of a run on this machine, forked from one process.

    python -P -m trainer.warm.leader --ranks 2 --run-dir D --sha256 H

Does for forked ranks what torchrun's agent does for its own: holds the store where they meet, waits
for them, and when one fails reports it and ends the others. A leader that a server forks has its ranks
before it has a run: they wait together.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from galley.system import ipc
from galley.system.pdeathsig import bound_to_me
from trainer import worker

END_RANKS_AFTER_S = 1.5  # after the first failure: time for the other ranks to say theirs
_HOST = "127.0.0.1"


def main() -> NoReturn:
    """The command. Ends with 0 when every rank did, otherwise with 1."""
    orders, giver = socket.socketpair()
    num_ranks, arguments = ranks_of(sys.argv[1:])
    ipc.send(giver, {"arguments": arguments, "environ": dict(os.environ), "log": None})
    lead(orders, num_ranks)


def ranks_of(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """How many ranks a leader is to have, and what each of them is told."""
    parser = argparse.ArgumentParser(prog="trainer.warm.leader")
    parser.add_argument("--ranks", type=int, required=True)
    known, rest = parser.parse_known_args(arguments)
    return known.ranks, rest


def lead(orders: socket.socket, num_ranks: int) -> NoReturn:
    """Fork the ranks, wait to be told of a run, and then for the last rank's end. Where no run comes: end.

    With the run may come a file, into which one byte is written once nothing but the end is left to do.
    """
    bind = bound_to_me()
    listener = socket.create_server((_HOST, 0)) if num_ranks > 1 else None
    done, says_done = os.pipe()
    ranks: dict[int, int] = {}
    givers: list[socket.socket] = []
    for rank in range(num_ranks):
        heard, giver = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            bind()
            for other in (orders, giver, *givers):
                other.close()
            _be_rank(rank, num_ranks, listener, says_done, heard)
        heard.close()
        givers.append(giver)
        ranks[pid] = rank
    ends = {os.pidfd_open(pid): pid for pid in ranks}
    told, files = _await_run(orders, ends)
    enter(told)
    os.environ["GALLEY_STARTED_AT"] = str(time.monotonic())
    for giver in givers:
        with suppress(BrokenPipeError):  # it has died, which is seen next
            ipc.send(giver, {**told, "environ": dict(os.environ)})
    # After the forks: the store has threads of its own.
    store = _open_store(listener) if listener is not None else None
    failed, left = _wait(ranks, ends, done)
    if left:
        for file in files:
            os.write(file, b".")
    del store
    worker.leave(int(failed))


def _await_run(orders: socket.socket, ends: Iterable[int]) -> ipc.Message:
    """Ends the process where a rank dies meanwhile: nothing is lost yet, and another crew can be forked."""
    news = select.poll()
    for descriptor in (orders.fileno(), *ends):
        news.register(descriptor, select.POLLIN)
    if all(descriptor != orders.fileno() for descriptor, _ in news.poll()):
        os._exit(1)
    return _receive(orders)


def _receive(channel: socket.socket) -> ipc.Message:
    """Ends the process where nothing will come."""
    message = ipc.receive(channel)
    if message is None:
        os._exit(0)
    return message


def enter(told: Mapping[str, Any]) -> None:
    """Into the environment, the code and the log of a run."""
    mine, its = os.environ.get("PYTHONPATH"), told["environ"]
    if mine is not None:
        sys.path[:] = [its["PYTHONPATH"] if path == mine else path for path in sys.path]
    os.environ.clear()
    os.environ.update(its)
    if told["log"] is not None:
        worker.redirect_streams(Path(told["log"]))


def _be_rank(
    rank: int, num_ranks: int, listener: socket.socket | None, says_done: int, heard: socket.socket
) -> NoReturn:
    """The process boundary of a forked rank: it never returns into the leader's frames."""
    try:
        told, _ = _receive(heard)
        enter(told)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
        if listener is not None:
            os.environ |= _meeting_place(listener.getsockname()[1])
            listener.close()
        # Also what a rank that executes itself again is told.
        sys.argv = ["trainer.worker", *told["arguments"]]
        _kept = worker.main()
        worker.flush()
        # The memory of a GPU has to be free for the next run.
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            os.write(says_done, b".")
        os._exit(0)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        worker.leave(error.code if isinstance(error.code, int) else 1)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        worker.leave(1)


def _meeting_place(port: int) -> dict[str, str]:
    """The variables by which torchrun tells its ranks that the agent holds the store."""
    return {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }


def _open_store(listener: socket.socket) -> object:
    """The store on a port that is open already: no other process can have taken it meanwhile."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    port = listener.getsockname()[1]
    return TCPStore(_HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _wait(ranks: dict[int, int], ends: Mapping[int, int], done: int) -> tuple[bool, bool]:
    """Until all have ended, or have said on the pipe `done` that nothing but their end is left to do: a
    tenth of a second in which the kernel frees their memory. SIGTERM and SIGINT are passed on to them.

    Returns whether one has failed, and whether they have all said so.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        _send(ranks, signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        _send(ranks, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGALRM, end)
    failed, num_done, num_ranks = False, 0, len(ranks)
    news = select.poll()
    for descriptor in (done, *ends):
        news.register(descriptor, select.POLLIN)
    while ranks:
        descriptor = news.poll()[0][0]
        if descriptor == done:
            num_done += len(os.read(done, num_ranks))
            if num_done == num_ranks:
                return False, True
            continue
        news.unregister(descriptor)
        pid, status = os.waitpid(ends[descriptor], 0)
        rank, code = ranks.pop(pid), os.waitstatus_to_exitcode(status)
        if code:
            if not failed:
                signal.setitimer(signal.ITIMER_REAL, END_RANKS_AFTER_S)
            failed = True
            # Read by `launchers.common.torchrun_log`, in the order in which it was seen.
            how = f"rank : {rank} (local_rank: {rank})\n  exitcode : {code} (pid: {pid})"
            print(f"galley: a rank ended\n  {how}", flush=True)
    return failed, False


def _send(ranks: dict[int, int], number: signal.Signals) -> None:
    """Say so first, as torchrun's agent does: the launcher reads there whom the signal ended."""
    for pid in list(ranks):
        said = f"galley: Sending process {pid} closing signal {number.name}\n"
        with suppress(OSError):  # on a full disk
            os.write(sys.stdout.fileno(), said.encode())  # a handler must not enter `print` once more
        os.kill(pid, number)


if __name__ == "__main__":
    main()
