"""What the processes do together: the process group beside `RankFacts`.

Values travel as tensors or JSON, never as pickles.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from galley.errors import ConfigError, Problem
from trainer.backends.probe import Choice, agree
from trainer.hosts.network import name_interface
from trainer.hosts.rank_facts import RankFacts
from trainer.run.attempt_layout import MICRO_SIZE

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

log = logging.getLogger("galley")

# Reading and tokenizing a large dataset on one rank may take longer than any training collective.
MAIN_FIRST_TIMEOUT = timedelta(days=1)


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
        self._group: Any = None

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
        """Return whether this process may replace itself by a new image: MPI starts only once per process."""
        return self.backend() != "mpi"

    def backend(self) -> str:
        """Return the backend of the process group, as the group itself reports it; `none` without a group."""
        import torch.distributed as dist

        return str(dist.get_backend()) if self._grouped else "none"

    def among(self, group: Any, place: RankFacts) -> Ranks:
        """Return the ranks of a part of the process group, in which this rank has the facts `place`."""
        some = Ranks(place, self.device, self._grouped)
        some.backend_reason, some._group = self.backend_reason, group
        return some

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum_floats([0.0])

    @contextmanager
    def main_first(
        self, meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Iterator[None]:
        """Run the body on each node's first rank, and then on the others, which wait in `meanwhile`."""
        if not self.facts.is_local_main:
            with meanwhile():
                self._wait_patiently()
        yield
        if self.facts.is_local_main:
            self._wait_patiently()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum in place over the ranks, and return the argument. Does not wait for the device."""
        import torch.distributed as dist

        if self._grouped:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def sum_floats(self, values: list[float]) -> list[float]:
        """Return the element-wise sums in float64."""
        return self._reduce(values, "SUM")

    def max_floats(self, values: list[float]) -> list[float]:
        """Return the element-wise maxima in float64."""
        return self._reduce(values, "MAX")

    def from_main(self, value: Any) -> Any:
        """Return the JSON value that the main rank passed; what the others pass is ignored."""
        return self.gather_json(value if self.is_main else None)[0]

    def gather_json(self, value: Any, apart: bool = False) -> list[Any]:
        """Return the JSON values of all ranks, indexed by rank, on every rank.

        With `apart` the collective is separate from those of training, so that another thread may call it.
        """
        import torch
        import torch.distributed as dist

        if not self._grouped:
            return [value]
        group = self._patient if apart else self._group

        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([text.numel()]), group=group)
        # `all_gather` needs equal shapes: pad to the longest, and cut again below.
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
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation), group=self._group)
        return tensor.tolist()

    def _wait_patiently(self) -> None:
        """Wait for all ranks, for up to `MAIN_FIRST_TIMEOUT`."""
        import torch
        import torch.distributed as dist

        if self._grouped:
            dist.all_reduce(torch.zeros(1), group=self._patient)

    def open_patient_group(self) -> None:
        """Open the group of `main_first` and of work beside training.

        It has a longer timeout than training.
        """
        import torch.distributed as dist

        self._patient = dist.new_group(backend="gloo", timeout=MAIN_FIRST_TIMEOUT)

    def advise_on_backend(self) -> None:
        """Measure oneCCL beside gloo for a moment, and log if oneCCL is the slower one."""
        from trainer.backends.measure import advise

        advice = advise(None, self._patient)
        if advice:
            self.backend_reason += f"; {advice}"
            log.warning(advice)


def device_index(local_rank: int, visible: int) -> int:
    """Return the index of this rank's GPU: a launcher may show all GPUs to every rank, or each its own.

    Raises `ConfigError` if there is none for this rank.
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
    """Join the process group (`grouped`) over `choice`; None is gloo on CPU and NCCL on CUDA.

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
        name_interface(facts)
        timeout = timedelta(seconds=timeout_s)
        store: Store = dist.HashStore()  # type: ignore[attr-defined]
        if facts.world_size > 1:
            shared_store, _, _ = next(rendezvous("env://", facts.rank, facts.world_size, timeout=timeout))
            # The agent's store outlives an image that restarts after memory ran out: the new image must not
            # find the keys of the old one, so that its keys have another prefix.
            name = os.environ.get(MICRO_SIZE, "sealed")
            ranks.store = store = dist.PrefixStore(name, shared_store)  # type: ignore[attr-defined]
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
