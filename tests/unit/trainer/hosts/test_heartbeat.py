"""The hosts' processes, on this one: a host is silent when its process is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from galley.system import proc
from galley.system.cluster_check import HostReport
from tests.integration.local.standin import wait_until
from trainer.hosts.heartbeat import Post, Report
from trainer.hosts.peers import Member, make_post
from trainer.hosts.ranks import RankFacts, Ranks

SILENCE_S = 1.5
CENTER, SECOND, THIRD = "host0 (10.0.0.1)", "host1 (10.0.0.2)", "host2 (10.0.0.3)"


class Host:
    """The process of a host, whose first rank is this test."""

    def __init__(self, post: Post, log: Path) -> None:
        self.rank, there = socket.socketpair()
        self.rank.settimeout(60)
        descriptors = [there.fileno()] + ([] if post.listener is None else [post.listener])
        argv = (sys.executable, "-P", "-m", "trainer.hosts.heartbeat", str(there.fileno()))
        self.process = proc.start(argv, env=os.environ, log=log, dies_with_parent=True, pass_fds=descriptors)
        there.close()
        self.rank.sendall(json.dumps(asdict(post)).encode() + b"\n")

    def report(self) -> Report | None:
        """The next one; None where the process has ended without."""
        with self.rank.makefile("r") as lines:
            line = lines.readline()
        return Report(**json.loads(line)) if line else None


class Fleet:
    """Three hosts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place: tuple[str, int] = self._listener.getsockname()
        self.hosts: dict[str, Host] = {}

    def start(self, own: str, *ranks: proc.Child, token: str = "t", **changes: Any) -> Host:  # noqa: S107
        center = own == CENTER
        told: dict[str, Any] = {
            "own": own, "center": CENTER, "place": self.place, "others": [SECOND, THIRD] if center else [],
            "listener": self._listener.fileno() if center else None, "token": token, "silence_s": SILENCE_S,
            "ranks": [(os.getpid(), 0.0), *((rank.id.pid, rank.id.started_at) for rank in ranks)],
        }  # fmt: skip
        self.hosts[own] = Host(Post(**told | changes), self._root / "log")
        return self.hosts[own]

    def close(self) -> None:
        self._listener.close()
        for host in self.hosts.values():
            host.rank.close()
            if host.process.exit_code() is None:
                os.kill(host.process.id.pid, signal.SIGKILL)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_a_silent_host_is_named_on_all_others_and_their_ranks_are_ended(fleet: Fleet, tmp_path: Path) -> None:
    sleeper = proc.start(("sleep", "600"), env=os.environ, log=tmp_path / "rank", dies_with_parent=True)
    center, second = fleet.start(CENTER), fleet.start(SECOND, sleeper)
    with socket.create_connection(fleet.place) as stranger:
        stranger.sendall(b"guess host9\n")
        assert stranger.recv(100).strip() == b"", "it is told nothing"
    third = fleet.start(THIRD)
    with center.rank.makefile("r") as lines:
        center.rank.settimeout(1.2 * SILENCE_S)
        with pytest.raises(TimeoutError):
            lines.readline()  # all are there
    center.rank.settimeout(60)
    os.kill(third.process.id.pid, signal.SIGSTOP)
    assert center.report() == Report(lost=[THIRD])
    assert second.report() == Report(lost=[THIRD])
    assert wait_until(lambda: sleeper.exit_code() is not None and sleeper.exit_code()) == -signal.SIGTERM


def test_a_host_that_has_ended_is_not_lost_and_one_that_never_came_is_said_to_be_unwatched(
    fleet: Fleet,
) -> None:
    center, second = fleet.start(CENTER), fleet.start(SECOND)
    assert fleet.start(THIRD, place=("127.0.0.1", 9)).report() == Report(unwatched=[CENTER])
    assert center.report() == Report(unwatched=[THIRD])
    second.rank.close()
    wait_until(lambda: second.process.exit_code() is not None)
    center.rank.shutdown(socket.SHUT_WR)
    assert center.report() is None, "nothing was lost"


def test_every_first_rank_knows_the_ranks_of_its_host(tmp_path: Path) -> None:
    members = [Member(local, 100 + rank, float(rank)) for rank, local in enumerate((0, 1, 0, 1, 2))]
    reports = [HostReport(f"h{int(rank > 1)}", "3", {}, 0.0, f"10.0.0.{int(rank > 1)}") for rank in range(5)]

    def post(rank: int) -> Post:
        facts = RankFacts(rank, 5, members[rank].local_rank, "torchrun", master="[fd::1]:29500")
        return make_post(Ranks(facts, None, grouped=False), reports, members, 20.0, None)  # type: ignore[arg-type]

    first, second = post(0), post(2)
    assert (first.own, first.center, first.others) == ("h0 (10.0.0.0)", "h0 (10.0.0.0)", ["h1 (10.0.0.1)"])
    assert (second.own, second.others) == ("h1 (10.0.0.1)", []), "the center alone waits for the others"
    assert first.place[0] == second.place[0] == "fd::1"
    assert [pid for pid, _ in first.ranks] == [100, 101]
    assert [pid for pid, _ in second.ranks] == [102, 103, 104]
