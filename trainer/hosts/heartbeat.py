"""Watch whether the other hosts of a run are still there: `python -P -m trainer.hosts.heartbeat FD`.

One process per host, started by the host's first rank. A separate process: a long step, a thread that keeps
Python's lock, or a disk that stalls cannot delay it. It never touches a file. The hosts' processes
are joined in a star around the main rank's host; each sends a byte five times in `silence_s`.
A host that is silent for so long is lost. The center tells all others, and every process ends
the ranks of its host. A connection that is *closed* is ignored: the ranks of that host have
ended, and torch notices that by itself.

FD is a socket of the rank that started the process (`galley.system.ipc`): a `Post` comes in, a `Report` goes
out. If the rank closes it, the rank has ended, and this process ends too.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from galley.system import ipc
from galley.system.proc import ProcessId

BEATS = 5
OTHERS_AFTER_S = 1.0  # after the first rank got the report: time for it to write down why it ends
KILL_AFTER_S = 10.0  # for a rank that cannot end, such as one that waits for the lost host's disk
_LINE_BYTES = 4096


@dataclass(frozen=True)
class Post:
    """What a host's watching process has to know.

    Attributes:
        own, center: `NAME (ADDRESS)` of this host, and of the main rank's.
        place: address and port at which the center listens.
        listener: the descriptor of the center's listening socket; None on the other hosts.
        others: the hosts that the center waits for; empty elsewhere.
        token: the first bytes of every connection of this run.
        ranks: process id and start of this host's ranks; the first is the one that started this process.
    """

    own: str
    center: str
    place: tuple[str, int]
    listener: int | None
    others: list[str]
    token: str
    silence_s: float
    ranks: list[tuple[int, float]]


@dataclass(frozen=True)
class Report:
    """What the process reports to the first rank of its host.

    Attributes:
        lost: hosts that went silent; this host's ranks are about to be ended.
        unwatched: hosts that never connected.
    """

    lost: list[str] = field(default_factory=list)
    unwatched: list[str] = field(default_factory=list)


@dataclass
class Peer:
    """A connection to another host. It has no name until it has shown the token."""

    socket: socket.socket
    name: str
    heard_at: float
    unread: bytes = b""

    def send(self, data: bytes) -> None:
        """Send without waiting. Data that find no room in the buffer of a silent peer are dropped."""
        with suppress(OSError):
            self.socket.send(data)

    def lines(self) -> Iterator[bytes] | None:
        """Return the whole lines that have come; None if the connection was closed, or sends no lines."""
        try:
            data = self.socket.recv(_LINE_BYTES)
        except BlockingIOError:
            return iter(())
        except OSError:
            data = b""
        *lines, self.unread = (self.unread + data).split(b"\n")
        return iter(lines) if data and len(self.unread) < _LINE_BYTES else None


class Heart:
    """The watching process of one host."""

    def __init__(self, post: Post, rank: socket.socket) -> None:
        self.post = post
        self.peers: list[Peer] = []
        self._rank = rank
        self._started_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(rank, selectors.EVENT_READ)
        self._listener: socket.socket | None = None

    def beat(self) -> Report | None:
        """Watch until a host is lost.

        Returns None if this host's rank ended first, or no connection is left.
        """
        if not self._open():
            self.report(Report(unwatched=[self.post.center]))
            return None
        every_s = self.post.silence_s / BEATS
        self._started_at = beat_at = time.monotonic()
        while True:
            lost = self._hear(max(0.0, beat_at - time.monotonic()))
            if lost is not None:
                return Report(lost=lost) if lost else None
            late_s = time.monotonic() - beat_at
            if late_s < 0:
                continue
            # A process that was stopped (SIGSTOP, a paused machine) cannot know who was silent meanwhile.
            if late_s > every_s:
                self._forgive()
            for peer in self.peers:
                peer.send(b"\n")
            beat_at = time.monotonic() + every_s
            if lost := self._silent():
                return Report(lost=lost)

    def report(self, report: Report) -> None:
        """Send a report to the first rank of this host."""
        with suppress(OSError):  # the rank has ended meanwhile
            ipc.send(self._rank, asdict(report))

    def tell_others(self, report: Report) -> None:
        """Tell the remaining hosts which ones are lost."""
        for peer in self.peers:
            if peer.name not in report.lost:
                peer.send(json.dumps(report.lost).encode() + b"\n")

    def _open(self) -> bool:
        """Listen as the center, or connect to it; return whether that worked."""
        if self.post.listener is not None:
            self._listener = socket.socket(fileno=self.post.listener)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
            return True
        try:
            center = socket.create_connection(self.post.place, timeout=self.post.silence_s)
        except OSError:
            return False
        self._add(center, self.post.center)
        self.peers[0].send(f"{self.post.token} {self.post.own}\n".encode())
        return True

    def _add(self, connection: socket.socket, name: str) -> None:
        connection.setblocking(False)
        peer = Peer(connection, name, time.monotonic())
        self.peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _drop(self, peer: Peer) -> None:
        self._selector.unregister(peer.socket)
        self.peers.remove(peer)
        peer.socket.close()

    def _hear(self, timeout_s: float) -> list[str] | None:
        """Read from all connections.

        Returns lost hosts, an empty list if nothing is left to watch, else None.
        """
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._rank:
                return []
            if key.fileobj is self._listener:
                with suppress(OSError):
                    self._add(self._listener.accept()[0], "")
                continue
            lost = self._listen_to(key.data)
            if lost is not None:
                return lost
        return None

    def _listen_to(self, peer: Peer) -> list[str] | None:
        """Read one connection; the result is as for `_hear`."""
        lines = peer.lines()
        if lines is None:
            self._drop(peer)
            return [] if self._listener is None else None
        for line in lines:
            peer.heard_at = time.monotonic()
            if not peer.name:
                token, _, name = line.decode(errors="replace").partition(" ")
                if token != self.post.token:
                    self._drop(peer)
                    return None
                peer.name = name
            elif line and self._listener is None:
                return [str(host) for host in json.loads(line)]
        return None

    def _silent(self) -> list[str]:
        """Return the hosts that were silent for too long.

        The center decides first, so that its message names the host that is lost: the others wait one beat
        longer.
        """
        now = time.monotonic()
        patience_s = self.post.silence_s * (1 if self._listener else 1 + 1 / BEATS)
        silent = [peer for peer in self.peers if now - peer.heard_at > patience_s]
        for peer in [peer for peer in silent if not peer.name]:
            self._drop(peer)
        if self._started_at and now - self._started_at > self.post.silence_s:
            self._started_at = 0.0  # reported once
            if missing := set(self.post.others) - {peer.name for peer in self.peers}:
                self.report(Report(unwatched=sorted(missing)))
        return sorted(peer.name for peer in silent if peer.name)

    def _forgive(self) -> None:
        """Count the silence of all peers from now on."""
        for peer in self.peers:
            peer.heard_at = time.monotonic()


def end_ranks(ranks: list[ProcessId]) -> None:
    """End the ranks of this host. The first one has the report: it writes down why, and ends by itself."""
    time.sleep(OTHERS_AFTER_S)
    _signal(ranks[1:], signal.SIGTERM)
    time.sleep(KILL_AFTER_S)
    _signal(ranks, signal.SIGKILL)


def _signal(ranks: list[ProcessId], number: signal.Signals) -> None:
    for rank in ranks:
        if (process := rank.find()) is not None:
            process.send_signal(number)


def main() -> None:
    """Receive the post, watch, and end the ranks if a host is lost."""
    rank = socket.socket(fileno=int(sys.argv[1]))
    message = ipc.receive(rank)
    if message is None:
        return
    post = Post(**{**message.said, "place": tuple(message.said["place"])})
    heart = Heart(post, rank)
    report = heart.beat()
    if report is not None:
        heart.tell_others(report)
        heart.report(report)
        end_ranks([ProcessId(pid, started_at) for pid, started_at in post.ranks])


if __name__ == "__main__":
    main()
