"""Prepare this rank before the process group: its cores, and the backend of its layout."""

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
    """Open the backend of CPU ranks; None if it is torch's own (gloo, NCCL, one process).

    Raises `ConfigError` if a backend that was named is not available.
    """
    if layout.device == "cpu" and recipe.strategy.pin_cores:
        pin(layout, local_rank)
    if layout.backend in ("none", "gloo", "nccl"):
        return None
    place = RankPlace(local_rank, layout.procs_per_node, cache_root(recipe.data))
    return open_cpu_backend(layout.backend, place)


def pin(layout: Layout, local_rank: int) -> None:
    """Bind this process to its share of the node's cores and their memory, and oneCCL's workers to theirs.

    Changes nothing if the launcher has bound the ranks already, or if ranks must share cores.
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
