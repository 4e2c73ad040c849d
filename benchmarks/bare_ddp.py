"""What torch needs for the same steps without Galley: DDP, AdamW, clipping, and nothing else.

Run by `benchmarks.strategies` on each rank, with RUN_DIR as its argument. Reads the sealed run of
RUN_DIR for its model, data and batches, and writes RUN_DIR/bare.json: `{rates, peak_memory_gib, stall_s}`,
`rates` being samples/s of each step. Ends with `os._exit`, as torch asks for with gloo.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from galley.rundir import RunFolder
from galley.spec import RunSpec
from trainer.data.batches import BatchPlan, split
from trainer.run.throughput import WARMUP_STEPS
from trainer.tasks import make_task
from trainer.tasks.base import Batch, Task

Step = tuple[Batch, torch.Tensor, int]


def read_steps(spec: RunSpec, task: Task, rank: int) -> list[Step]:
    """(inputs, weights, samples of all ranks) of each step, as the run of `spec` gives them to `rank`."""
    layout = spec.layout
    data = task.datasets(nullcontext).train
    plan = BatchPlan(data.lengths, spec.recipe.seed, layout.global_size, spec.recipe.train.length_grouped)
    steps: list[Step] = []
    for _, batch in zip(range(spec.recipe.train.max_steps or 0), plan.from_step(0), strict=False):
        (by_rank,) = split(batch.samples, data.lengths, layout.world_size, layout.micro_size)
        own = by_rank[rank]
        inputs = task.collate(data.rows(own.samples.tolist()))
        steps.append((inputs, torch.from_numpy(own.weights), len(batch.samples)))
    return steps


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    spec = folder.read_spec()
    torch.set_num_threads(spec.layout.threads_per_proc)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    task = make_task(spec.recipe)
    steps = read_steps(spec, task, rank)
    model = task.model().train()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.recipe.optim.lr, fused=True)
    rates = []
    for inputs, weights, size in steps:
        started = time.perf_counter()
        loss = task.loss(ddp, inputs, weights) * world_size / size
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(size / (time.perf_counter() - started))
    dist.barrier()
    started = time.perf_counter()
    if rank == 0:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder.root / "bare.pt"
        )
    dist.barrier()
    stall = time.perf_counter() - started
    peak = torch.tensor(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    if rank == 0:
        found = {"rates": rates[WARMUP_STEPS:], "peak_memory_gib": float(peak), "stall_s": stall}
        (folder.root / "bare.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
