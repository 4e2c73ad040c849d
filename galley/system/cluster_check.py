"""Whether the hosts of a run agree: packages, Python, clocks. Asked by the ranks before they train.

By hand, on the hosts that mpirun reaches: `mpirun … python -P -m galley.system.cluster_check` (mpi4py).
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.system.packages import package_versions

MAX_CLOCK_SKEW_S = 5.0  # makes the order of log lines and of failures on two hosts a guess


@dataclass(frozen=True)
class HostReport:
    """One rank's host.

    Attributes:
        time: Unix time in seconds, taken by all ranks at once.
        address: by which the main rank's host knows it; empty where that cannot be told.
    """

    host: str
    python: str
    packages: dict[str, str]
    time: float
    address: str = ""


def report_host() -> HostReport:
    """Of this host; `MASTER_ADDR` names the main rank's."""
    main = os.environ.get("MASTER_ADDR", "")
    return HostReport(
        socket.gethostname(), platform.python_version(), package_versions(), time.time(), own_address(main)
    )


def own_address(peer: str) -> str:
    """The address of this host on the way to `peer`. Sends nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(peer or None, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def check_hosts(reports: Sequence[HostReport]) -> list[str]:
    """Warnings about clocks. Raises `ConfigError` with every package that is not the same everywhere."""
    problems = [
        problem
        for name in sorted({"python"}.union(*(report.packages for report in reports)))
        for problem in _drift(name, reports)
    ]
    if problems:
        raise ConfigError(problems)
    skew = max(report.time for report in reports) - min(report.time for report in reports)
    if skew <= MAX_CLOCK_SKEW_S:
        return []
    first, last = (pick(reports, key=lambda report: report.time) for pick in (min, max))
    return [f"the clock of {last.host} is {skew:.0f} s ahead of that of {first.host}: let NTP set them"]


def _drift(name: str, reports: Sequence[HostReport]) -> list[Problem]:
    hosts: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        version = report.python if name == "python" else report.packages.get(name, "missing")
        if report.host not in hosts[version]:
            hosts[version].append(report.host)
    if len(hosts) == 1:
        return []
    found = "; ".join(
        f"{version} on {', '.join(sorted(names)[:4])}" for version, names in sorted(hosts.items())
    )
    return [Problem(name, f"is not the same on all hosts: {found}", "use one environment on all of them")]


def main() -> int:
    """Gather over MPI, print on rank 0; its exit code is that of a configuration error where they differ."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ:  # mpi4py would take another MPI that is beside the interpreter
        os.environ.setdefault("MPI4PY_MPIABI", "openmpi")
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    world.Barrier()
    reports = world.gather(asdict(report_host()), root=0)
    if reports is None:
        return 0
    found = [HostReport(**report) for report in reports]
    hosts = sorted({report.host for report in found})
    print(f"{counted(len(found), 'rank')} on {counted(len(hosts), 'host')}: {', '.join(hosts)}")
    try:
        for warning in check_hosts(found):
            print(f"warning: {warning}")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("python and packages agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
