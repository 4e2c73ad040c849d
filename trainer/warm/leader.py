"""The ranks of a run on this machine, forked from one process.

    python -P -m trainer.warm.leader --ranks 2 --run-dir D --sha256 H

Does for forked ranks what torchrun's agent does for its workers: holds the store where they meet, waits
for them, and reports the first that fails and ends the others. A leader that a server forks gets its
ranks before it gets a run: leader and ranks wait together.
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

END_RANKS_AFTER_S = 1.5  # after the first failure: time for the other ranks to report their own
_HOST = "127.0.0.1"


def main() -> NoReturn:
    """Run the command. Ends with 0 if every rank did, otherwise with 1."""
    orders, giver = socket.socketpair()
    num_ranks, arguments = ranks_of(sys.argv[1:])
    ipc.send(giver, {"arguments": arguments, "environ": dict(os.environ), "log": None})
    lead(orders, num_ranks)


def ranks_of(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Return the number of ranks of a leader, and the arguments of each rank."""
    parser = argparse.ArgumentParser(prog="trainer.warm.leader")
    parser.add_argument("--ranks", type=int, required=True)
    known, rest = parser.parse_known_args(arguments)
    return known.ranks, rest


def lead(orders: socket.socket, num_ranks: int) -> NoReturn:
    """Fork the ranks, wait for a run, and then until the last rank ends. Ends at once if no run comes.

    With the run may come a file, into which one byte is written once the ranks have only to end.
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
            # The fork has the leader's ends, too. If open here, they would not close when the leader dies.
            for other in (orders, giver, *givers):
                other.close()
            _be_rank(rank, num_ranks, listener, says_done, heard)
        heard.close()
        givers.append(giver)
        ranks[pid] = rank

    # A pidfd becomes readable when its process ends, so that one `poll` waits for messages and ends alike.
    ends = {os.pidfd_open(pid): pid for pid in ranks}
    run_order, files = _await_run(orders, ends)
    enter(run_order)
    os.environ["GALLEY_STARTED_AT"] = str(time.monotonic())
    for giver in givers:
        with suppress(BrokenPipeError):  # the rank has died; `_wait` sees it next
            ipc.send(giver, {**run_order, "environ": dict(os.environ)})
    # The store is opened after the forks: it has threads of its own, which a fork would not copy.
    store = _open_store(listener) if listener is not None else None

    failed, left = _wait(ranks, ends, done)
    if left:
        for file in files:
            os.write(file, b".")
    del store
    worker.leave(int(failed))


def _await_run(orders: socket.socket, ends: Iterable[int]) -> ipc.Message:
    """Wait for the run and return its order.

    Ends the process if a rank dies meanwhile: nothing is lost yet, and the server can fork another crew.
    """
    news = select.poll()
    for descriptor in (orders.fileno(), *ends):
        news.register(descriptor, select.POLLIN)
    if all(descriptor != orders.fileno() for descriptor, _ in news.poll()):
        os._exit(1)
    return _receive(orders)


def _receive(channel: socket.socket) -> ipc.Message:
    """Return the next message. Ends the process if the other end is closed."""
    message = ipc.receive(channel)
    if message is None:
        os._exit(0)
    return message


def enter(run_order: Mapping[str, Any]) -> None:
    """Take over the environment, the code and the log of a run."""
    mine, run_environ = os.environ.get("PYTHONPATH"), run_order["environ"]
    if mine is not None:
        # Python read PYTHONPATH at the start of the server: put the run's code snapshot in its place.
        sys.path[:] = [run_environ["PYTHONPATH"] if path == mine else path for path in sys.path]
    os.environ.clear()
    os.environ.update(run_environ)
    if run_order["log"] is not None:
        worker.redirect_streams(Path(run_order["log"]))


def _be_rank(
    rank: int, num_ranks: int, listener: socket.socket | None, says_done: int, heard: socket.socket
) -> NoReturn:
    """Run as one forked rank and end. The process boundary: it never returns into the leader's frames."""
    try:
        run_order, _ = _receive(heard)
        enter(run_order)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
        if listener is not None:
            os.environ |= _meeting_place(listener.getsockname()[1])
            listener.close()
        # A rank that executes itself again (`trainer.run.out_of_memory`) reads these arguments, too.
        sys.argv = ["trainer.worker", *run_order["arguments"]]
        _kept = worker.main()
        worker.flush()
        # With a GPU the leader waits for the process to end: only then is its memory free for the next run.
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
    """Return the variables by which torchrun tells its ranks that the agent holds the store."""
    return {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }


def _open_store(listener: socket.socket) -> object:
    """Open the store on a port that is open already, so that no other process can take the port meanwhile."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    port = listener.getsockname()[1]
    return TCPStore(_HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _wait(ranks: dict[int, int], ends: Mapping[int, int], done: int) -> tuple[bool, bool]:
    """Wait until all ranks have ended, or have said on the pipe `done` that they have only to end.

    The latter saves the tenth of a second in which the kernel frees their memory. SIGTERM and SIGINT are
    passed on to the ranks. Returns whether a rank has failed, and whether all said that they are done.
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
            # `launchers.common.torchrun_log` reads this text. Failures stand in the order of their detection.
            how = f"rank : {rank} (local_rank: {rank})\n  exitcode : {code} (pid: {pid})"
            print(f"galley: a rank ended\n  {how}", flush=True)
    return failed, False


def _send(ranks: dict[int, int], number: signal.Signals) -> None:
    """Log the signal, then send it to all ranks.

    Logged first, like torchrun's agent does: the launcher reads there which ranks ended by the signal.
    """
    for pid in list(ranks):
        line = f"galley: Sending process {pid} closing signal {number.name}\n"
        with suppress(OSError):  # on a full disk
            # Not `print`: a signal handler may interrupt a `print`, whose buffer cannot be entered twice.
            os.write(sys.stdout.fileno(), line.encode())
        os.kill(pid, number)


if __name__ == "__main__":
    main()
