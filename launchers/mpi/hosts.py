"""Read the hosts of mpirun: names, ranges (`node[01-04]`) and host files of other programs.

Pure functions, except `hosts_of`, which reads `launcher.mpi.hostfile`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.schema import Recipe

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_RANGE = re.compile(r"\d+(?:-\d+)?")
_WORD = re.compile(r"(slots|cpus?|count|max[-_]slots|user|username)=(\S+)")
_MOST = 100_000  # most hosts of one range; more is a typing error
_VALID = "a name or an IPv4 address, also as user@host; node[01-04] for several"


def hosts_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the hosts of the run, one per node; empty for this machine.

    Raises `ConfigError` with everything about them that mpirun does not support.
    """
    mpi = recipe.launcher.mpi
    if mpi.hostfile is None:
        hosts, problems = expand("launcher.mpi.hosts", mpi.hosts)
        return _checked(hosts, problems)
    if mpi.hosts:
        raise ConfigError(Problem("launcher.mpi.hostfile", "stands beside launcher.mpi.hosts", "give one"))

    try:
        text = Path(mpi.hostfile).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(
            Problem(f"launcher.mpi.hostfile={mpi.hostfile}", f"cannot be read: {what}")
        ) from error

    slots, problems = read_hostfile(mpi.hostfile, text)
    procs = (recipe.cluster.procs_per_node or 0) if recipe.strategy.data_parallel else 1
    return _checked(list(slots), [*problems, *_slot_problems(mpi.hostfile, slots, procs)])


def host_name(host: str) -> str:
    """Return the host without the user."""
    return host.rpartition("@")[2]


def expand(where: str, entries: Iterable[str]) -> tuple[list[str], list[Problem]]:
    """Return all hosts, in order, with what is wrong with them. `where` names the list."""
    hosts: list[str] = []
    problems: list[Problem] = []
    for entry in entries:
        expanded = list(_expanded(entry))
        hosts += expanded
        wrong = next(filter(None, map(_host_problem, expanded or [entry])), "")
        if wrong:
            problems.append(Problem(f"{where}: {entry!r}", wrong, _VALID))
    names = Counter(map(host_name, hosts))
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        hint = "name each once; ranks of a host are cluster.procs_per_node"
        problems.append(Problem(where, f"names {', '.join(twice[:3])} more than once", hint))
    return hosts, problems


def _expanded(entry: str) -> Iterator[str]:
    """Yield the hosts of a pattern: `a[1-2]b[3,5]` is a1b3, a1b5, a2b3, a2b5; leading zeros stay.

    Yields nothing if the brackets are wrong.
    """
    before, bracket, rest = entry.partition("[")
    if not bracket:
        yield entry
        return
    inside, closed, after = rest.partition("]")
    parts = inside.split(",")
    if not closed or not all(_RANGE.fullmatch(part) for part in parts):
        return
    for part in parts:
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not low <= high < low + _MOST:
            return
        for number in range(low, high + 1):
            yield from (f"{before}{number:0{len(first)}d}{tail}" for tail in _expanded(after))


def _host_problem(host: str) -> str:
    """Return why a name is not possible in a list of hosts; empty if it is."""
    if _is_ipv6(host_name(host).strip("[]")):
        return "is an IPv6 address, which no mpirun reads in a list of hosts: give it a name in /etc/hosts"
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and _HOST.fullmatch(name):
        return "names a port, which mpirun has no use for: ssh's port is set in ~/.ssh/config"
    return "" if _HOST.fullmatch(host) else "is no name of a host"


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def read_hostfile(path: str, text: str) -> tuple[dict[str, int | None], list[Problem]]:
    """Return host -> slots from a file of Open MPI, MPICH, Intel MPI, PBS or plain names.

    Slots are None if not stated. Lines are `HOST`, `HOST:SLOTS` or `HOST slots=SLOTS`; a host that is
    repeated without slots has as many as lines.
    """
    slots: dict[str, int | None] = {}
    lines: Counter[str] = Counter()
    problems: list[Problem] = []

    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}:{number}"
        name, stated, unknown = _read_line(words)
        if unknown:
            hint = "HOST, HOST:SLOTS, HOST slots=SLOTS"
            problems.append(Problem(where, f"'{unknown}' is not understood", hint))
        hosts, wrong = expand(where, [name])
        problems += wrong
        for host in hosts:
            if host in slots and (stated is not None or slots[host] is not None):
                problems.append(Problem(where, f"states the slots of {host} once more", "name it once"))
            slots[host] = stated
            lines[host] += 1

    if not slots and not problems:
        problems.append(Problem(path, "names no host"))
    return {host: lines[host] if lines[host] > 1 else stated for host, stated in slots.items()}, problems


def _read_line(words: list[str]) -> tuple[str, int | None, str]:
    """Return (host, slots, the first word that is not understood) of a line."""
    name, user, stated = words[0], "", None
    host, colon, count = name.rpartition(":")
    if colon and count.isdigit() and ":" not in host:
        name, stated = host, int(count)
    for word in words[1:]:
        option = _WORD.fullmatch(word)
        if option is None or (not option[1].startswith("user") and not option[2].isdigit()):
            return name, stated, word
        if option[1].startswith("user"):
            user = option[2]
        elif not option[1].startswith("max"):
            stated = int(option[2])
    return f"{user}@{name}" if user and "@" not in name else name, stated, ""


def _slot_problems(path: str, slots: dict[str, int | None], procs: int) -> Iterator[Problem]:
    """Yield a problem if the file gives hosts fewer slots than ranks.

    `procs` is 0 if the recipe states none.
    """
    stated = {host: count for host, count in slots.items() if count is not None}
    if not stated:
        return
    host, least = min(stated.items(), key=lambda item: item[1])
    what = f"{path} has {counted(least, 'slot')} for {host}"
    if not procs:
        hint = f"set cluster.procs_per_node={least}, or fewer"
        yield Problem("cluster.procs_per_node", f"{what}, the recipe states no ranks a node", hint)
    elif procs > least:
        yield Problem(f"cluster.procs_per_node={procs}", what, f"no more ranks a node than {least}")


def _checked(hosts: list[str], problems: list[Problem]) -> tuple[str, ...]:
    if problems:
        raise ConfigError(problems)
    return tuple(hosts)
