"""Where a run is started, and what it gets there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.registry import LAUNCHERS
from galley.schema.k8s import K8s
from galley.schema.slurm import Slurm
from galley.schema.types import Minutes, NameIn, NonNegative, Positive


@dataclass(frozen=True)
class Torchrun:
    """How torchrun's agents find each other (`launcher=local` with `cluster.nodes` > 1).

    The run is started on the first machine; on each of the others, which see the same run folder,
    `join RUN NODE` starts the ranks.

    Attributes:
        rendezvous: `HOST:PORT`, a free port of the first machine by the name that all know it by.
        backend: `c10d` numbers the machines as they come, `static` as they are numbered.
        min_nodes, max_nodes: an elastic run: it goes on with any number of machines between them, from
            its last checkpoint and with the same global batch, when others are lost or join.
            `cluster.nodes` is what it is planned for; it needs `c10d`.
        max_restarts: how often an elastic run is started again after a rank failed.
        last_call_s: how long an elastic run that has `min_nodes` waits for further machines.
    """

    rendezvous: str | None = None
    backend: Literal["c10d", "static"] = "c10d"
    min_nodes: Positive | None = None
    max_nodes: Positive | None = None
    max_restarts: NonNegative = 3
    last_call_s: Positive = 30


@dataclass(frozen=True)
class Mpi:
    """What only mpirun knows (`launcher=mpi`).

    Attributes:
        flavor: `auto` takes the first that is found.
        program: the mpirun to use; null looks for one on PATH, then beside the interpreter.
        hosts: as many as `cluster.nodes`, reached by ssh, also as `user@host` and `node[01-04]`; none is
            this machine.
        hostfile: a file of hosts in place of `hosts`, as Open MPI, MPICH or PBS have them. Its slots are the
            most ranks of a host.
        bind: what a rank may not leave: `core` is `cluster.threads_per_proc` cores of its own.
        pin_masks: CPUs of each rank of a node, in hexadecimal and in quotes (`"0x3"`), instead of `bind`.
        options: further words of mpirun's command line.
    """

    flavor: Literal["auto", "openmpi", "mpich", "intel"] = "auto"
    program: str | None = None
    hosts: list[str] = field(default_factory=list)
    hostfile: str | None = None
    bind: Literal["none", "core", "socket", "numa"] = "none"
    pin_masks: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ray:
    """What only Ray knows (`launcher=ray`).

    Attributes:
        address: of the cluster's dashboard, which takes jobs.
        resources: further resources that a node of the run takes, by the names that the cluster
            gave them (`ray start --resources`).
    """

    address: str = "http://127.0.0.1:8265"
    resources: dict[str, Annotated[float, Field(gt=0)]] = field(default_factory=dict)


@dataclass(frozen=True)
class Launcher:
    """What starts the processes.

    Attributes:
        timeout_s: seconds after which a collective that hangs fails the run.
        host_timeout_s: seconds without a sign of life after which another host is lost, however long a
            step takes; null leaves it to `timeout_s`.
        grace_s: seconds between the request to end and the kill.
        env: further environment variables of the ranks.
        forward_env: names of variables whose values the ranks take from the user's
            environment; the values are never written down.
        torchrun: read by `launcher=local` only.
        mpi: read by `launcher=mpi` only.
        slurm: read by `launcher=slurm` only.
        k8s: read by `launcher=k8s` only.
        ray: read by `launcher=ray` only.
        options: of a launcher from outside Galley, which is given them as they are.
    """

    kind: Annotated[str, NameIn(LAUNCHERS)] = "local"
    timeout_s: Positive = 300
    host_timeout_s: Annotated[float, Field(gt=0)] | None = 20.0
    grace_s: Annotated[float, Field(gt=0)] = 3.0
    env: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = field(default_factory=dict)
    forward_env: list[str] = field(default_factory=lambda: ["HF_TOKEN", "WANDB_API_KEY"])
    torchrun: Torchrun = field(default_factory=Torchrun)
    mpi: Mpi = field(default_factory=Mpi)
    slurm: Slurm = field(default_factory=Slurm)
    k8s: K8s = field(default_factory=K8s)
    ray: Ray = field(default_factory=Ray)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """Where it runs.

    Attributes:
        nodes: hosts that the ranks are spread over.
        procs_per_node: exactly so many ranks a node; null is one a device.
        max_procs_per_node: at most so many, where `procs_per_node` is null.
        device: `auto` is CUDA where it is found.
        threads_per_proc: OpenMP threads a rank; null is cores ÷ ranks.
        preload: libraries that every rank loads before all others (`LD_PRELOAD`): `tcmalloc` or
            `jemalloc` (allocators), `libiomp5` (Intel's OpenMP), or the path of any other on the nodes.
        gpus_per_node, cpus_per_node, memory_gib_per_node: what a node of a cluster has for the run
            and is asked for; null is as little as the ranks need. This machine is probed instead.
        gpu_memory_gib: of one GPU of such a node; null is not known, and no estimate is compared with it.
        time_limit_min: minutes after which the cluster ends the run, or `DAYS-HH:MM:SS`; null leaves it to
            the cluster.
    """

    nodes: Positive = 1
    procs_per_node: Positive | None = None
    max_procs_per_node: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_proc: Positive | None = None
    preload: list[str] = field(default_factory=list)
    gpus_per_node: NonNegative | None = None
    cpus_per_node: Positive | None = None
    memory_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = None
    time_limit_min: Minutes | None = None
