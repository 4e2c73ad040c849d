"""Express one request in the options of each mpirun: hosts, ranks, binding, environment. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from galley.schema import Mpi
from galley.spec import Layout, MpiFacts
from launchers.mpi.hosts import host_name

# Open MPI waits 300 s by default before it probes a silent host. It must know before the
# ranks give up: while their messages are under way to the lost host, TCP sends no probes, and the daemon of a
# host that was cut off would stay. Three probes are sent.
_KEEPALIVE_S = 10


@dataclass(frozen=True)
class MpiJob:
    """The job that mpirun starts, for any flavor of mpirun.

    Attributes:
        hosts: one per node, also as `user@host`.
        names: of the variables to pass on to the ranks; their values are in mpirun's environment.
        files: the folder of the files that the command names.
        timeout_s: after this time the ranks give up on a host.
    """

    mpi: Mpi
    hosts: Sequence[str]
    layout: Layout
    names: Sequence[str]
    files: Path
    timeout_s: float = 300


@dataclass(frozen=True)
class Spoken:
    """The command without the program of the ranks, with the files and variables that it needs."""

    argv: tuple[str, ...]
    files: dict[str, str]
    env: dict[str, str]


def speak(facts: MpiFacts, request: MpiJob) -> Spoken:
    """Return the command for the mpirun that was found."""
    dialect = _open_mpi if facts.flavor == "openmpi" else _hydra
    return dialect(facts, request)


def _open_mpi(facts: MpiFacts, request: MpiJob) -> Spoken:
    mpi, procs = request.mpi, request.layout.procs_per_node
    place: tuple[str, ...]
    files = {"hostfile": "".join(f"{host} slots={procs}\n" for host in request.hosts)}
    if mpi.pin_masks:
        files["rankfile"] = _rankfile(request)
        place = ("--mca", "rmaps_rank_file_physical", "1", "--rankfile", str(request.files / "rankfile"))
    else:
        elements = f":PE={request.layout.threads_per_proc}" if mpi.bind == "core" else ""
        place = ("--map-by", f"ppr:{procs}:node{elements}", "--bind-to", mpi.bind)

    variables = [word for name in request.names for word in ("-x", name)]
    argv = (
        facts.program,
        "--allow-run-as-root",
        *("--hostfile", str(request.files / "hostfile")),
        *("-n", str(request.layout.world_size)),
        *place,
        *(_keepalive(request.timeout_s) if len(request.hosts) > 1 else ()),
        *variables,
        *mpi.options,
    )
    return Spoken(argv, files, {})


def _keepalive(timeout_s: float) -> Iterator[str]:
    every = str(int(min(_KEEPALIVE_S, max(1, timeout_s // 5))))
    for name, value in (("time", every), ("intvl", every), ("probes", "3")):
        yield from ("--mca", f"oob_tcp_keepalive_{name}", value)


def _rankfile(request: MpiJob) -> str:
    lines = []
    for node, host in enumerate(request.hosts):
        for local_rank, mask in enumerate(request.mpi.pin_masks):
            rank = node * request.layout.procs_per_node + local_rank
            lines.append(f"rank {rank}={host_name(host)} slot={','.join(map(str, mask_cpus(mask)))}\n")
    return "".join(lines)


def _hydra(facts: MpiFacts, request: MpiJob) -> Spoken:
    procs = request.layout.procs_per_node
    env = _intel_pinning(request) if facts.flavor == "intel" else {}
    binding = () if facts.flavor == "intel" else ("-bind-to", _mpich_binding(request))
    argv = (
        facts.program,
        *("-f", str(request.files / "hostfile")),
        *("-n", str(request.layout.world_size)),
        *("-ppn", str(procs)),
        *binding,
        "-genvall",  # with -genvlist the Hydra of MPICH 4.0 loses variables on their way to another host
        *request.mpi.options,
    )
    return Spoken(argv, {"hostfile": "".join(f"{host}:{procs}\n" for host in request.hosts)}, env)


def _mpich_binding(request: MpiJob) -> str:
    mpi = request.mpi
    if mpi.pin_masks:
        return "user:" + ",".join("+".join(map(str, mask_cpus(mask))) for mask in mpi.pin_masks)
    return f"core:{request.layout.threads_per_proc}" if mpi.bind == "core" else mpi.bind


def _intel_pinning(request: MpiJob) -> dict[str, str]:
    mpi = request.mpi
    if mpi.pin_masks:
        return {"I_MPI_PIN": "on", "I_MPI_PIN_DOMAIN": f"[{','.join(mpi.pin_masks)}]"}
    if mpi.bind == "none":
        return {"I_MPI_PIN": "off"}
    domain = str(request.layout.threads_per_proc) if mpi.bind == "core" else mpi.bind
    return {"I_MPI_PIN": "on", "I_MPI_PIN_DOMAIN": domain}


def mask_cpus(mask: str) -> list[int]:
    """Return the CPUs of a mask: `0xc` is 2 and 3."""
    bits = int(mask, 16)
    return [cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1]
