"""Before the process group: the cores of this rank, and the backend that its layout asks for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from galley.schema import Recipe
from galley.spec import Layout
from galley.system.pinning import pins_of, read_cores
from trainer.backends.probe import Choice, RankPlace, open_cpu_backend
from trainer.data.cache import cache_root
from trainer.hosts.numa import bind_memory

log = logging.getLogger("galley")


def prepare_backend(layout: Layout, recipe: Recipe, local_rank: int) -> Choice | None:
    """The backend of CPU ranks, opened; None where torch's own is meant (gloo, nccl, one process).

    Raises `ConfigError` where a backend that was named cannot be had.
    """
    if layout.device == "cpu" and recipe.strategy.pin_cores:
        pin(layout, local_rank)
    if layout.backend in ("none", "gloo", "nccl"):
        return None
    place = RankPlace(local_rank, layout.procs_per_node, cache_root(recipe.data))
    return open_cpu_backend(layout.backend, place)


def pin(layout: Layout, local_rank: int) -> None:
    """Bind this process to its share of the node's cores and to their memory, and oneCCL's workers to theirs.

    Where the launcher has bound the ranks already, or they must take turns, nothing is changed.
    """
    pins = pins_of(layout, read_cores(Path("/sys"), os.sched_getaffinity(0)))
    if pins is None:
        return
    for name, value in pins.ccl_environment().items():
        os.environ.setdefault(name, value)
    mine = pins.ranks[local_rank]
    os.sched_setaffinity(0, mine.omp_cpus)
    refused = bind_memory(mine.numa_nodes)
    log.info("bound to %s%s", mine, f" (memory is not bound: {refused})" if refused else "")
