"""The other hosts of a run, and which of them are gone. Torch's own errors name none of them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from galley.cluster_check import HostReport

_ANSWER_TIMEOUT_S = 3.0
_PROBES = 64
_DISCARD_PORT = 9  # what a host that is up refuses at once, where no firewall swallows it

_addresses: dict[str, str] = {}


def remember(reports: Iterable[HostReport]) -> None:
    """Keep the addresses, for the moment when a host no longer answers."""
    _addresses.update({report.host: report.address for report in reports if report.address})


def silent_hosts() -> list[str]:
    """`NAME (ADDRESS)` of the hosts that neither accept nor refuse a connection; takes 3 s at most."""
    others = [(host, address) for host, address in _addresses.items() if host != socket.gethostname()]
    with ThreadPoolExecutor(_PROBES) as pool:
        answers = pool.map(_answers, [address for _, address in others[:_PROBES]])
    return [f"{host} ({address})" for (host, address), up in zip(others, answers, strict=False) if not up]


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, _DISCARD_PORT), timeout=_ANSWER_TIMEOUT_S):
            return True
    except OSError as error:
        return error.errno == errno.ECONNREFUSED
