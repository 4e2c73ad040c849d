"""Before the process group: the cores of this rank, and the backend that its layout asks for."""

from __future__ import annotations

import os
from pathlib import Path

from galley.pinning import plan_pins, read_cores
from galley.schema import Recipe
from galley.spec import Layout
from trainer.backends.probe import Choice, Place, open_cpu_backend
from trainer.cache import cache_root


def prepare_backend(layout: Layout, recipe: Recipe, local_rank: int) -> Choice | None:
    """The backend of CPU ranks, opened; None where torch's own is meant (gloo, nccl, one process).

    Raises `ConfigError` where a backend that was named cannot be had.
    """
    if layout.device == "cpu" and recipe.strategy.pin_cores:
        pin(layout, local_rank)
    if layout.backend in ("none", "gloo", "nccl"):
        return None
    place = Place(local_rank, layout.procs_per_node, cache_root(recipe.data))
    return open_cpu_backend(layout.backend, place)


def pin(layout: Layout, local_rank: int) -> None:
    """Bind this process to its share of the node's cores, and oneCCL's workers to theirs.

    Where the launcher has bound the ranks already, or they must take turns, nothing is changed.
    """
    cores = read_cores(Path("/sys"), os.sched_getaffinity(0))
    if layout.procs_per_node * (layout.threads_per_proc + layout.ccl_workers) > len(cores):
        return
    pins = plan_pins(cores, layout.procs_per_node, layout.ccl_workers, layout.threads_per_proc)
    for name, value in pins.environment().items():
        if name.startswith("CCL_"):
            os.environ.setdefault(name, value)
    os.sched_setaffinity(0, pins.ranks[local_rank].omp_cpus)
