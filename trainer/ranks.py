"""Which process this is, and what the processes do together.

`RankFacts` is read from the environment that the launcher made; `Ranks` adds the process group.
Values travel as tensors or JSON, never as pickles.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from galley.errors import ConfigError, Problem
from trainer.backends.probe import Choice, agree
from trainer.placing import MICRO_SIZE

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

log = logging.getLogger("galley")

# Reading and tokenizing a large dataset on one rank may take longer than any training collective.
MAIN_FIRST_TIMEOUT = timedelta(days=1)


@dataclass(frozen=True)
class RankVariables:
    """The environment variables by which one kind of launcher tells a process its place.

    Attributes:
        local_size: ranks of this node; not every launcher says it.
    """

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str


# The first row whose variables are all set decides. MPI stands before Slurm: `mpirun` inside an
# sbatch job inherits the batch step's SLURM_PROCID=0 in every process. `srun --mpi=pmi2` sets
# PMI_RANK without MPI_LOCALRANKID and so falls through to the Slurm row.
RANK_VARIABLES = (
    RankVariables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    RankVariables(
        "openmpi",
        *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ),
    RankVariables("mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    RankVariables("slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


@dataclass(frozen=True)
class RankFacts:
    """One process among all; the ranks are numbered node by node.

    Attributes:
        launcher: names the row of `RANK_VARIABLES`; `none` is a lone process.
        local_size: ranks of this node; all of them where the launcher does not say.
        master: `ADDRESS:PORT` at which the ranks meet; empty for a lone process.
    """

    rank: int
    world_size: int
    local_rank: int
    launcher: str
    local_size: int = 1
    master: str = ""

    @property
    def node(self) -> int:
        return self.rank // self.local_size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        return self.local_rank == 0


def read_rank_facts(environ: Mapping[str, str]) -> RankFacts:
    """The place of this process. Raises `ConfigError` on values that are no place in a world."""
    for row in RANK_VARIABLES:
        names = (row.rank, row.world_size, row.local_rank)
        if all(name in environ for name in names):
            try:
                rank, world_size, local_rank = (int(environ[name]) for name in names)
                local_size = int(environ.get(row.local_size, world_size))
            except ValueError as error:
                raise ConfigError(Problem(" ".join(names), "must be integers", str(error))) from error
            if not (0 <= rank < world_size and 0 <= local_rank <= rank and local_rank < local_size):
                shown = " ".join(f"{name}={environ[name]}" for name in names)
                raise ConfigError(Problem(shown, "is no place in a world", "0 <= local rank <= rank < size"))
            return RankFacts(rank, world_size, local_rank, row.launcher, local_size, _master(environ))
    return RankFacts(0, 1, 0, "none")


def _master(environ: Mapping[str, str]) -> str:
    place = (environ.get("MASTER_ADDR"), environ.get("MASTER_PORT"))
    return f"{place[0]}:{place[1]}" if all(place) else ""


class Ranks:
    """This process and its process group, if there is one.

    Every method but the properties is a collective: all ranks must call it, in the same order.
    """

    def __init__(self, facts: RankFacts, device: torch.device, grouped: bool) -> None:
        self.facts = facts
        self.device = device
        self.backend_reason = ""
        self.store: Store | None = None
        """By which the ranks found each other; null for a lone one."""
        self._grouped = grouped
        self._patient: Any = None

    @property
    def rank(self) -> int:
        return self.facts.rank

    @property
    def world_size(self) -> int:
        return self.facts.world_size

    @property
    def is_main(self) -> bool:
        return self.facts.is_main

    @property
    def restartable(self) -> bool:
        """Whether this process may become a new image of itself: MPI starts once in a process."""
        return self.backend() != "mpi"

    def backend(self) -> str:
        """What the process group runs on, read off the group itself; `none` without one."""
        import torch.distributed as dist

        return str(dist.get_backend()) if self._grouped else "none"

    def barrier(self) -> None:
        self.sum_floats([0.0])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The body runs on each node's first rank, and only then on the others."""
        if not self.facts.is_local_main:
            self._wait_patiently()
        yield
        if self.facts.is_local_main:
            self._wait_patiently()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums in place over the ranks; returns its argument. Does not wait for the device."""
        import torch.distributed as dist

        if self._grouped:
            dist.all_reduce(tensor)
        return tensor

    def sum_floats(self, values: list[float]) -> list[float]:
        """Element-wise sums in float64."""
        return self._reduce(values, "SUM")

    def max_floats(self, values: list[float]) -> list[float]:
        return self._reduce(values, "MAX")

    def from_main(self, value: Any) -> Any:
        """The JSON value that the main rank passed; what the others pass is ignored."""
        return self.gather_json(value if self.is_main else None)[0]

    def gather_json(self, value: Any, apart: bool = False) -> list[Any]:
        """The JSON value of every rank, indexed by rank, on every rank.

        `apart` from the collectives of training, in a thread of its own.
        """
        import torch
        import torch.distributed as dist

        if not self._grouped:
            return [value]
        group = self._patient if apart else None
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([text.numel()]), group=group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: text.numel()] = text
        parts = [torch.zeros_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded, group=group)
        return [
            json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)
        ]

    def _reduce(self, values: list[float], operation: str) -> list[float]:
        import torch
        import torch.distributed as dist

        if not self._grouped:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
        return tensor.tolist()

    def _wait_patiently(self) -> None:
        import torch
        import torch.distributed as dist

        if self._grouped:
            dist.all_reduce(torch.zeros(1), group=self._patient)

    def open_patient_group(self) -> None:
        """The group of `main_first`, and of what goes on beside training, whose timeout is not its."""
        import torch.distributed as dist

        self._patient = dist.new_group(backend="gloo", timeout=MAIN_FIRST_TIMEOUT)

    def advise_on_backend(self) -> None:
        """Measure oneCCL next to gloo, for a moment, and say so where it is the slower one."""
        from trainer.backends.measure import advise

        advice = advise(None, self._patient)
        if advice:
            self.backend_reason += f"; {advice}"
            log.warning(advice)


def device_index(local_rank: int, visible: int) -> int:
    """Index of this rank's GPU: a launcher may show all of them to every rank, or each its own.

    Raises `ConfigError` where there is none for this rank.
    """
    if visible == 1:
        return 0
    if local_rank < visible:
        return local_rank
    what = f"local rank {local_rank} sees {visible} GPUs"
    hint = "at most one rank a GPU, or cluster.device=cpu; CUDA_VISIBLE_DEVICES says which GPUs are seen"
    raise ConfigError(Problem("cluster.procs_per_node", what, hint))


def open_ranks(
    facts: RankFacts, device_kind: str, timeout_s: int, grouped: bool, choice: Choice | None = None
) -> Ranks:
    """Join the process group (`grouped`), over `choice`; null is gloo on CPU and nccl on CUDA.

    On CUDA, CPU tensors travel over gloo. A lone process gets a group of one, if `grouped`.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    device = torch.device("cpu")
    if device_kind == "cuda":
        device = torch.device("cuda", device_index(facts.local_rank, torch.cuda.device_count()))
        torch.cuda.set_device(device)
    ranks = Ranks(facts, device, grouped)
    if grouped:
        timeout = timedelta(seconds=timeout_s)
        store: Store = dist.HashStore()  # type: ignore[attr-defined]
        if facts.world_size > 1:
            found, _, _ = next(rendezvous("env://", facts.rank, facts.world_size, timeout=timeout))
            # Another name after memory ran out: the agent's store outlives this image.
            name = os.environ.get(MICRO_SIZE, "sealed")
            ranks.store = store = dist.PrefixStore(name, found)  # type: ignore[attr-defined]
        backend = "gloo" if device_kind == "cpu" else "cpu:gloo,cuda:nccl"
        if choice is not None:
            choice = agree(choice, store, facts.rank, facts.world_size)
            backend, ranks.backend_reason = choice.backend, str(choice)
        dist.init_process_group(
            backend,
            timeout=timeout,
            rank=facts.rank,
            world_size=facts.world_size,
            store=store,
        )
        ranks.open_patient_group()
        if backend == "ccl":
            ranks.advise_on_backend()
    return ranks
