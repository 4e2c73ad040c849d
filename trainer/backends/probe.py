"""Choose the backend of CPU ranks: the first that this machine has.

The order: `oneccl_bindings_for_pytorch`, the project's own binding of oneCCL, the MPI that torch was
built with, and gloo, which always exists. Each that was passed over gives a reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from galley.errors import ConfigError, Problem
from trainer.backends.ccl import BackendUnavailable, register

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True)
class Choice:
    """A backend, and why it was chosen.

    Attributes:
        backend: for `init_process_group`: `ccl`, `mpi` or `gloo`.
        carrier: what provides it, with its version if it has one.
        reasons: one sentence for each backend that was passed over, in the order of the probe.
    """

    backend: str
    carrier: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        passed = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.backend}: {self.carrier}{passed}"


@dataclass(frozen=True)
class RankPlace:
    """This process on its node, and the folder of compiled libraries."""

    local_rank: int
    local_size: int
    cache: Path


Open = Callable[[RankPlace], str]
"""Makes a backend usable in this process and names its carrier; raises `BackendUnavailable`."""


def open_bindings(place: RankPlace) -> str:
    """Open Intel's bindings of oneCCL."""
    name = "oneccl_bindings_for_pytorch"
    if importlib.util.find_spec(name) is None:
        raise BackendUnavailable("is not installed")
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"cannot be imported with this torch: {error}") from error
    return f"{name} {getattr(module, '__version__', '')}".strip()


def open_own(place: RankPlace) -> str:
    """Open Galley's binding of oneCCL."""
    return f"oneCCL {register(place.cache, place.local_rank, place.local_size)}, Galley's binding"


def open_mpi(place: RankPlace) -> str:
    """Check that torch has MPI, and that `mpirun` started the ranks."""
    import torch.distributed as dist

    if not dist.is_mpi_available():
        raise BackendUnavailable("torch was built without it")
    if not any(name in os.environ for name in _MPI_VARIABLES):
        raise BackendUnavailable("the ranks were not started by mpirun")
    return "the MPI that torch was built with"


def open_gloo(place: RankPlace) -> str:
    """Return gloo's carrier. It needs no preparation."""
    return "part of torch"


Candidates = Sequence[tuple[str, str, Open]]

CANDIDATES: Candidates = (
    ("oneccl_bindings_for_pytorch", "ccl", open_bindings),
    ("oneCCL", "ccl", open_own),
    ("MPI", "mpi", open_mpi),
    ("gloo", "gloo", open_gloo),
)
"""(name, backend, how to open it), in the order of the probe."""


def choose_cpu_backend(place: RankPlace, candidates: Candidates = CANDIDATES) -> Choice:
    """Return the first candidate that opens. It is usable in this process afterwards."""
    return _first_that_opens(candidates, place, "strategy.backend", "gloo is part of every torch")


def _first_that_opens(candidates: Candidates, place: RankPlace, where: str, hint: str) -> Choice:
    """Return the first candidate that opens. Raises `ConfigError` with the reason of each if none does."""
    reasons: list[str] = []
    for name, backend, open_backend in candidates:
        try:
            return Choice(backend, open_backend(place), tuple(reasons))
        except BackendUnavailable as error:
            reasons.append(f"{name} {error}")
    raise ConfigError(Problem(where, "; ".join(reasons), hint))


def open_cpu_backend(wanted: str, place: RankPlace, candidates: Candidates = CANDIDATES) -> Choice:
    """Open the backend that the user `wanted`: `auto` is gloo, `probe` the first that is available.

    Raises:
        ConfigError: the backend was named and is not available. Nothing takes its place.
    """
    if wanted == "probe":
        return choose_cpu_backend(place, candidates)
    backend = "gloo" if wanted == "auto" else wanted
    matching = tuple(row for row in candidates if row[1] == backend)
    if not matching:
        raise ConfigError(
            Problem(f"strategy.backend={wanted}", "carries no CPU ranks", "valid: gloo, ccl, mpi")
        )
    hint = "strategy.backend=probe takes the next one that this machine has"
    return _first_that_opens(matching, place, f"strategy.backend={wanted}", hint)


def agree(choice: Choice, store: Store, rank: int, world_size: int) -> Choice:
    """Return the choice of all ranks: if they differ, gloo, and which rank lacks the backend.

    A collective over the store, before there is a process group.
    """
    store.set(f"cpu_backend/{rank}", f"{choice.backend}\n{'; '.join(choice.reasons)}")
    choices = [store.get(f"cpu_backend/{other}").decode().split("\n", 1) for other in range(world_size)]
    if len({backend for backend, _ in choices}) == 1:
        return choice
    others = [f"rank {i} has only {b} ({why})" for i, (b, why) in enumerate(choices) if b != choice.backend]
    return Choice("gloo", "part of torch", (*choice.reasons, f"{choice.backend}: {others[0]}"))
