"""The other hosts of a run, and which of them are gone. Torch's own errors name no host."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from galley.system import ipc, proc
from galley.system.cluster_check import HostReport
from trainer.hosts.heartbeat import Post, Report

if TYPE_CHECKING:
    from trainer.hosts.ranks import Ranks

log = logging.getLogger("galley")

_ANSWER_TIMEOUT_S = 3.0
_PROBES = 64
_DISCARD_PORT = 9  # a host that is up refuses it at once, unless a firewall drops the packets

_addresses: dict[str, str] = {}


def remember(reports: Iterable[HostReport]) -> None:
    """Keep the addresses of the hosts, for error messages when a host no longer answers."""
    _addresses.update({report.host: report.address for report in reports if report.address})


def silent_hosts() -> list[str]:
    """Return `NAME (ADDRESS)` of the hosts that neither accept nor refuse a connection. Takes 3 s at most."""
    others = [(host, address) for host, address in _addresses.items() if host != socket.gethostname()]
    with ThreadPoolExecutor(_PROBES) as pool:
        answers = pool.map(_answers, [address for _, address in others[:_PROBES]])
    return [f"{host} ({address})" for (host, address), up in zip(others, answers, strict=False) if not up]


def _answers(address: str) -> bool:
    """Return whether the host accepts or refuses a connection: both come from a living host."""
    try:
        with socket.create_connection((address, _DISCARD_PORT), timeout=_ANSWER_TIMEOUT_S):
            return True
    except OSError as error:
        return error.errno == errno.ECONNREFUSED


@dataclass(frozen=True)
class Member:
    """A rank, as the others have to know it.

    Attributes:
        port, token: of the main rank's host, where the hosts meet; empty for the other ranks.
    """

    local_rank: int
    pid: int
    started_at: float
    port: int = 0
    token: str = ""


def watch_hosts(
    ranks: Ranks, reports: Sequence[HostReport], silence_s: float, rank_log: Path, lost: Callable[[str], None]
) -> None:
    """Watch all hosts: a host that is silent for `silence_s` ends the ranks of all others. A collective.

    `lost` gets the message on the first rank of each host, and ends that rank.
    """
    listener = _listen() if ranks.is_main else None
    port, token = (listener.getsockname()[1], secrets.token_hex(16)) if listener else (0, "")
    this_rank = Member(ranks.facts.local_rank, os.getpid(), proc.started_at(os.getpid()), port, token)
    members = [Member(**member) for member in ranks.gather_json(asdict(this_rank))]
    post = make_post(ranks, reports, members, silence_s, listener)
    if ranks.facts.is_local_main and len({member for member in members if member.local_rank == 0}) > 1:
        _start(post, rank_log, lost)
    if listener is not None:
        listener.close()


def make_post(
    ranks: Ranks,
    reports: Sequence[HostReport],
    members: Sequence[Member],
    silence_s: float,
    listener: socket.socket | None,
) -> Post:
    """Return what the watching process of this rank's host has to know."""
    firsts = [rank for rank, member in enumerate(members) if member.local_rank == 0]
    first = max(rank for rank in firsts if rank <= ranks.rank)
    end = min([rank for rank in firsts if rank > first], default=len(members))
    names = [f"{report.host} ({report.address})" if report.address else report.host for report in reports]
    return Post(
        own=names[first],
        center=names[0],
        place=(ranks.facts.master.rpartition(":")[0].strip("[]"), members[0].port),
        listener=None if listener is None else listener.fileno(),
        others=[names[rank] for rank in firsts if rank] if ranks.is_main else [],
        token=members[0].token,
        silence_s=silence_s,
        ranks=[(member.pid, member.started_at) for member in members[first:end]],
    )


def _listen() -> socket.socket:
    """Listen on every address of this host, at a free port."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def _start(post: Post, rank_log: Path, lost: Callable[[str], None]) -> None:
    """Start the watching process and a thread that reads its reports."""
    here, there = socket.socketpair()
    descriptors = [there.fileno()] + ([] if post.listener is None else [post.listener])
    argv = [sys.executable, "-P", "-m", "trainer.hosts.heartbeat", str(there.fileno())]
    # Not in this process' group, and not ended with it: it may have to enforce the end of this very rank.
    proc.start(argv, env=os.environ, log=rank_log, dies_with_parent=False, pass_fds=descriptors)
    there.close()
    ipc.send(here, asdict(post))
    threading.Thread(target=_hear, args=(here, post.silence_s, lost), name="hosts", daemon=True).start()


def _hear(process: socket.socket, silence_s: float, lost: Callable[[str], None]) -> None:
    """Read reports until the process ends. The body of the thread."""
    while (message := ipc.receive(process)) is not None:
        report = Report(**message.said)
        if report.lost:
            lost(f"no answer from {', '.join(report.lost)} for {silence_s:g} s (launcher.host_timeout_s)")
        log.warning(
            "%s cannot be watched from here: if it is lost, only launcher.timeout_s ends the run",
            ", ".join(report.unwatched),
        )
