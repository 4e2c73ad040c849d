"""Which cores compute and which communicate: the environment of CPU ranks under oneCCL. Pure.

Every rank of a node has an equal run of physical cores. Its first `ccl_workers` cores belong to
oneCCL's worker threads, the others to OpenMP, one thread a core:

    procs_per_node × (OMP threads + CCL workers) <= physical cores

Cores are physical, as sysfs tells them; the second hardware threads stay idle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.spec import Core

if TYPE_CHECKING:
    from galley.schema import Recipe
    from galley.spec import ClusterFacts, Layout


@dataclass(frozen=True)
class RankPins:
    """The CPUs of one rank of a node, by the kernel's numbers."""

    omp_cpus: tuple[int, ...]
    ccl_cpus: tuple[int, ...]
    numa_nodes: tuple[int, ...]

    @property
    def mask(self) -> str:
        """The CPUs that compute, as Intel MPI writes them: `0xfffffff0`."""
        return hex(sum(1 << cpu for cpu in self.omp_cpus))

    def __str__(self) -> str:
        workers = f", oneCCL's workers on {cpu_list(self.ccl_cpus)}" if self.ccl_cpus else ""
        memory = f"memory of NUMA node {cpu_list(self.numa_nodes)}"
        return f"CPUs {cpu_list(self.omp_cpus)} (mask {self.mask}){workers}, {memory}"


@dataclass(frozen=True)
class Pins:
    """A node's cores, dealt out to its ranks."""

    ranks: tuple[RankPins, ...]
    threads: int
    ccl_workers: int

    def environment(self, local_rank: int | None = None) -> dict[str, str]:
        """Variables of every rank of the node; with `local_rank`, also those that differ by rank.

        `CCL_WORKER_AFFINITY` names the workers of all the node's ranks, rank by rank, and
        `I_MPI_PIN_DOMAIN` one mask a rank.
        """
        env = {
            "I_MPI_PIN_DOMAIN": f"[{','.join(rank.mask for rank in self.ranks)}]",
            "KMP_AFFINITY": "granularity=fine,compact,1,0",
            "KMP_HW_SUBSET": "1T",
            "OMP_NUM_THREADS": str(self.threads),
        }
        env |= self.ccl_environment()
        if local_rank is not None:
            env["GOMP_CPU_AFFINITY"] = " ".join(map(str, self.ranks[local_rank].omp_cpus))
        return env

    def ccl_environment(self) -> dict[str, str]:
        """The part that oneCCL reads; empty without workers."""
        if not self.ccl_workers:
            return {}
        workers = ",".join(str(cpu) for rank in self.ranks for cpu in rank.ccl_cpus)
        return {"CCL_WORKER_COUNT": str(self.ccl_workers), "CCL_WORKER_AFFINITY": workers}


def plan_pins(cores: Iterable[Core], procs_per_node: int, ccl_workers: int, threads: int | None) -> Pins:
    """Deal the cores out; `threads` is null for all that the workers leave.

    Raises `ConfigError` with the equation where there are not enough cores.
    """
    ordered = sorted(cores)
    problem = core_problem(len(ordered), procs_per_node, ccl_workers, threads)
    if problem is not None:
        raise ConfigError(problem)
    share = len(ordered) // procs_per_node
    count = threads or share - ccl_workers
    ranks = []
    for rank in range(procs_per_node):
        mine = ordered[rank * share : (rank + 1) * share][: ccl_workers + count]
        cpus = tuple(core.cpu for core in mine)
        nodes = tuple(sorted({core.node for core in mine}))
        ranks.append(RankPins(cpus[ccl_workers:], cpus[:ccl_workers], nodes))
    return Pins(tuple(ranks), count, ccl_workers)


def pins_of(layout: Layout, cores: Collection[Core]) -> Pins | None:
    """What the ranks of a node with these cores bind themselves to; None if they must take turns."""
    if layout.procs_per_node * (layout.threads_per_proc + layout.ccl_workers) > len(cores):
        return None
    return plan_pins(cores, layout.procs_per_node, layout.ccl_workers, layout.threads_per_proc)


def planned_pins(recipe: Recipe, layout: Layout, facts: ClusterFacts) -> Pins | None:
    """As far as can be known before the ranks read their own node: the cores of a node that is only
    described are numbered from 0. None where no core is bound.
    """
    if layout.device != "cpu" or not recipe.strategy.pin_cores:
        return None
    described = tuple(Core(0, cpu) for cpu in range(facts.physical_cores))
    return pins_of(layout, described if facts.declared else facts.cores)


def core_problem(cores: int, procs_per_node: int, ccl_workers: int, threads: int | None) -> Problem | None:
    """What is wrong with `procs_per_node × (threads + CCL workers) <= cores`, or None.

    `threads` null stands for at least one.
    """
    needed = procs_per_node * ((threads or 1) + ccl_workers)
    if needed <= cores:
        return None
    shown = "at least 1 thread" if threads is None else counted(threads, "thread")
    most = cores // procs_per_node - ccl_workers
    if most >= 1:
        hint = f"at most cluster.threads_per_proc={most}"
    else:
        hint = "fewer ranks (cluster.procs_per_node) or fewer workers (strategy.ccl_workers)"
    what = (
        f"{counted(procs_per_node, 'rank')} × ({shown} + {counted(ccl_workers, 'CCL worker')}) = {needed}"
        f" > {counted(cores, 'physical core')}"
    )
    return Problem("cluster.threads_per_proc" if threads else "strategy.ccl_workers", what, hint)


def environment_problem(env: Mapping[str, str], procs_per_node: int, cores: int) -> Problem | None:
    """The same equation for an environment that somebody else wrote, or None.

    Read are `OMP_NUM_THREADS` and `CCL_WORKER_COUNT`; without the former nothing can be said.
    """
    try:
        threads, workers = int(env["OMP_NUM_THREADS"]), int(env.get("CCL_WORKER_COUNT", "0"))
    except (KeyError, ValueError):
        return None
    problem = core_problem(cores, procs_per_node, workers, threads)
    if problem is None:
        return None
    where = "launcher.env.OMP_NUM_THREADS"
    most = max(1, cores // procs_per_node - workers)
    return Problem(where, problem.what, f"at most {counted(most, 'thread')} a rank")


def read_cores(sys_root: Path, allowed: Set[int]) -> tuple[Core, ...]:
    """The physical cores among the CPUs `allowed`, each by its first allowed hardware thread."""
    found: dict[tuple[int, str], Core] = {}
    for cpu in sorted(allowed):
        folder = sys_root / f"devices/system/cpu/cpu{cpu}"
        package = int(_read(folder / "topology/physical_package_id", "0"))
        core = _read(folder / "topology/thread_siblings_list", str(cpu))
        nodes = sorted(folder.glob("node[0-9]*"))
        node = int(nodes[0].name.removeprefix("node")) if nodes else 0
        found.setdefault((package, core), Core(package, cpu, node))
    return tuple(sorted(found.values()))


def _read(path: Path, otherwise: str) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return otherwise


def cpu_list(cpus: Iterable[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8: the notation of numactl and taskset."""
    runs: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
