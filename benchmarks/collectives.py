"""All-reduce over oneCCL next to gloo, on the CPU ranks of this machine.

    python -m benchmarks.collectives [--ranks 2] [--rounds 20] [--json]

The two backends take turns in every round, so that what the machine does meanwhile falls on both.
Median milliseconds of one fp32 all-reduce on rank 0; the ratio is oneCCL's time to gloo's.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

SIZES = tuple(4096 * 4**power for power in range(7))  # 4 KiB to 16 MiB


def rank_main(rank: int, size: int, port: int, rounds: int, queue: object) -> None:
    """One rank; rank 0 puts `{bytes: (ccl ms, gloo ms)}` into the queue."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import torch.distributed as dist

    from galley.schema import Data
    from trainer.backends import ccl, measure
    from trainer.data.cache import cache_root

    ccl.register(cache_root(Data()), rank, size)
    dist.init_process_group("ccl", rank=rank, world_size=size, timeout=timedelta(seconds=120))
    groups = {"ccl": None, "gloo": dist.new_group(backend="gloo")}
    taken = {num_bytes: measure.all_reduce_ms(groups, num_bytes, rounds) for num_bytes in SIZES}
    if rank == 0:
        queue.put({size: (ms["ccl"], ms["gloo"]) for size, ms in taken.items()})  # type: ignore[attr-defined]
    dist.destroy_process_group()


def measure_all(ranks: int, rounds: int) -> dict[int, tuple[float, float]]:
    import torch.multiprocessing as mp
    from torch.multiprocessing.spawn import spawn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    spawn(rank_main, args=(ranks, port, rounds, queue), nprocs=ranks)  # type: ignore[no-untyped-call]
    found: dict[int, tuple[float, float]] = queue.get()
    return found


def show(found: dict[int, tuple[float, float]], ranks: int, version: str) -> None:
    from trainer.backends.measure import slower_than_gloo

    table = Table(title=f"all-reduce of {ranks} ranks, oneCCL {version}, milliseconds")
    for column in ("size", "oneCCL", "gloo", "ratio"):
        table.add_column(column, justify="right")
    for size, (ours, gloo) in sorted(found.items()):
        name = f"{size // 1024} KiB" if size < 2**20 else f"{size // 2**20} MiB"
        table.add_row(name, f"{ours:.3f}", f"{gloo:.3f}", f"{ours / gloo:.2f}")
    console = Console()
    console.print(table)
    console.print(slower_than_gloo(found) or "oneCCL is no slower than gloo at the largest size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from galley.schema import Data
    from trainer.backends.ccl.toolchain import BackendUnavailable, build, find_parts
    from trainer.data.cache import cache_root

    try:
        parts = find_parts()
        build(parts, Path(cache_root(Data())))
    except BackendUnavailable as error:
        sys.exit(f"oneCCL cannot be measured: {error}")
    found = measure_all(options.ranks, options.rounds)
    if options.json:
        print(
            json.dumps({str(size): {"ccl_ms": pair[0], "gloo_ms": pair[1]} for size, pair in found.items()})
        )
    else:
        show(found, options.ranks, parts.versions[0].split()[-1])


if __name__ == "__main__":
    main()
