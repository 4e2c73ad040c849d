"""Read which process this is from the environment that the launcher made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from galley.errors import ConfigError, Problem


@dataclass(frozen=True)
class RankVariables:
    """The environment variables by which one kind of launcher gives a process its rank.

    Attributes:
        local_size: the number of ranks of this node; not every launcher sets it.
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
    """One process among all. The ranks are numbered node by node.

    Attributes:
        launcher: the name of the row of `RANK_VARIABLES`; `none` is a lone process.
        local_size: the number of ranks of this node; all ranks if the launcher does not set it.
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
        """Return the number of this process' node, from 0."""
        return self.rank // self.local_size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        return self.local_rank == 0


def read_rank_facts(environ: Mapping[str, str]) -> RankFacts:
    """Return the facts of this process. Raises `ConfigError` on values that are no place in a world."""
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
    """Return `ADDRESS:PORT` of the meeting place, empty if either is not set."""
    place = (environ.get("MASTER_ADDR"), environ.get("MASTER_PORT"))
    return f"{place[0]}:{place[1]}" if all(place) else ""
