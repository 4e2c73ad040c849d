"""Real ranks that train the tiny task through the real worker, under any strategy.

Ranks are forked from a server that has torch loaded, so that a run costs no imports.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from galley.rundir import RunFolder
from galley.schema import Batch as BatchSizes
from galley.schema import Eval, Optim, Recipe, Schedule, Strategy, Train
from galley.spec import CodeSnapshot, Layout, RunSpec, compact_json
from galley.system.nvme import has_libaio, kept_on_drive
from tests.integration.train.tiny_task import TinyTask, note_memory
from tests.support import free_port, make_recipe, not_available
from trainer.engines.base import Setup
from trainer.engines.ddp import DdpEngine, SingleEngine
from trainer.engines.deepspeed.config import uses_cpu_adam
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks

STRATEGIES = {
    "single": Strategy("single", data_parallel=False),
    "ddp": Strategy("ddp"),
    "zero1": Strategy("zero1", engine="deepspeed", shard="optimizer"),
    "zero2": Strategy("zero2", engine="deepspeed", shard="grads"),
    "zero3": Strategy("zero3", engine="deepspeed", shard="params"),
    "zero2_offload": Strategy("zero2_offload", engine="deepspeed", shard="grads", offload_optimizer="cpu"),
    "zero3_offload": Strategy(
        "zero3_offload", engine="deepspeed", shard="params", offload_optimizer="cpu", offload_params="cpu"
    ),
    "zero3_nvme": Strategy(
        "zero3_nvme",
        engine="deepspeed",
        shard="params",
        offload_optimizer="nvme",
        offload_params="nvme",
        engine_options={"zero_optimization": {"sub_group_size": 262144}},
    ),
    "fsdp": Strategy("fsdp", engine="fsdp", shard="params", wrap="size", wrap_min_params=500),
    "fsdp_grad_op": Strategy("fsdp_grad_op", engine="fsdp", shard="grads", wrap="none"),
    "fsdp_hybrid": Strategy(
        "fsdp_hybrid", engine="fsdp", shard="params", wrap="none", hybrid=True, hybrid_shard_size=2
    ),
    "fsdp_offload": Strategy(
        "fsdp_offload",
        engine="fsdp",
        shard="params",
        wrap="none",
        offload_params="cpu",
        offload_optimizer="cpu",
    ),
}


class LonelyEngine(DdpEngine):
    """DDP that never sums gradients: what a wrapper without a common process group does."""

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        with self.ddp.no_sync():
            yield


class ForgetfulEngine(SingleEngine):
    """Loses what makes the forward compute in the recipe's format."""

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        vars(model).pop("forward", None)
        super().__init__(model, setup)


def save_in_trouble(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """TINY_WRITE=STEP:AWAIT:FILE waits for a file, STEP:FILL:FILE leaves too little space."""
    step, trouble, name = os.environ["TINY_WRITE"].split(":")
    if path.parent.name.endswith(step):
        deadline = time.monotonic() + 60
        while trouble == "AWAIT" and not Path(name).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with Path(name).open("ab", buffering=0) as ballast, suppress(OSError):
            while trouble == "FILL" and shutil.disk_usage(path.parent).free > 2**14:
                ballast.write(bytes(2**12))
    save_file(tensors, path)


def tiny_recipe(strategy: str = "ddp", **changes: Any) -> Recipe:
    """8 samples a step, 9 steps an epoch (the last one of 6 samples), no evaluation in between."""
    recipe = Recipe(
        recipe="tiny",
        strategy=STRATEGIES[strategy],
        optim=Optim(lr=1e-2),
        schedule=Schedule(warmup_steps=2),
        batch=BatchSizes(global_size=8),
        train=Train(epochs=2.0, log_every_steps=1),
        eval=Eval(metric="eval/accuracy"),
        seed=7,
    )
    return make_recipe(recipe, **changes)


def tiny_spec(recipe: Recipe, world_size: int, accumulation: int = 1) -> RunSpec:
    global_size, parts = recipe.batch.global_size or 8, recipe.strategy.model_parallel
    layout = Layout(
        nodes=1,
        procs_per_node=world_size,
        world_size=world_size,
        device="cpu",
        backend="none" if world_size == 1 else "gloo",
        threads_per_proc=1,
        global_size=global_size,
        micro_size=-(-global_size * parts // (world_size * accumulation)),
        accumulation=accumulation,
        model_parallel=parts,
    )
    return RunSpec(recipe, layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")


def enter_worker(run_dir: str, sha256: str, environ: dict[str, str]) -> None:
    """The body of a rank: the worker's own main, with the tiny task behind the task seam.

    With OWN_TASK=1 the recipe's own task, from the folder TINY_PLUGINS if it is the user's.
    """
    import trainer.run.session
    import trainer.tasks
    from galley.plugins import add_folders
    from trainer import engines
    from trainer.worker import leave, main

    os.environ.update(environ)
    if "TINY_ENGINE" in environ:
        carrier, _, engine = environ["TINY_ENGINE"].partition(":")
        engines.engine_class = lambda strategy: getattr(importlib.import_module(carrier), engine)
    if "TINY_PLAN" in environ:
        module, _, name = environ["TINY_PLAN"].partition(":")
        trainer.run.session.BatchPlan = getattr(importlib.import_module(module), name)  # type: ignore[misc]
    if "TINY_SYNC_DEBUG" in environ:
        raise_on_waiting(int(environ["TINY_SYNC_DEBUG"]))
    if "TINY_PLUGINS" in environ:
        add_folders([Path(environ["TINY_PLUGINS"])])
    if "OWN_TASK" not in environ:
        trainer.tasks.make_task = TinyTask  # type: ignore[attr-defined]
    if "TINY_WRITE" in environ:
        trainer.checkpoints.store.save_file = save_in_trouble  # type: ignore[attr-defined]
    if "TINY_PEAK" in environ:
        note_memory_before_deepspeed()
    sys.argv = ["worker", "--run-dir", run_dir, "--sha256", sha256]
    _kept = main()
    leave(0)


def note_memory_before_deepspeed() -> None:
    """When it has partitioned the weights: what it allocates next is no part of loading them."""
    import deepspeed

    initialize = deepspeed.initialize

    def noted(**arguments: Any) -> Any:
        note_memory()
        return initialize(**arguments)

    deepspeed.initialize = noted


def raise_on_waiting(first_step: int) -> None:
    """From that step on torch raises wherever a training step would wait for the GPU."""
    from trainer.run.loop import Loop

    train_step = Loop._train_step

    def watched(self: Loop, batch: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.step >= first_step else "default")
        train_step(self, batch)
        torch.cuda.set_sync_debug_mode("default")

    Loop._train_step = watched  # type: ignore[method-assign]


@cache
def build_cpu_adam() -> None:
    """Compiled once for all (a minute): the time that a run is given is not for that."""
    from trainer.engines.deepspeed.operators import load_cpu_adam

    os.environ["DS_ACCELERATOR"] = "cpu"
    load_cpu_adam(Setup(tiny_recipe(), tiny_spec(tiny_recipe(), 1).layout, lone_rank()))


@cache
def build_async_io() -> None:
    """As `build_cpu_adam`; five minutes."""
    if not has_libaio():
        not_available("libaio-dev is not installed", "state on an NVMe drive")
    from trainer.engines.deepspeed.operators import load_async_io

    os.environ["DS_ACCELERATOR"] = "cpu"
    load_async_io(Setup(tiny_recipe("zero3_nvme"), tiny_spec(tiny_recipe(), 1).layout, lone_rank()))


def lone_rank() -> Ranks:
    return Ranks(RankFacts(0, 1, 0, "none"), torch.device("cpu"), grouped=False)


def start_ranks(
    root: Path, spec: RunSpec, attempt: int = 1, world_size: int | None = None, **environ: str
) -> list[BaseProcess]:
    """`world_size` is what an elastic job has started, where it is not what was planned."""
    world_size = world_size or spec.layout.world_size
    elastic = {} if world_size == spec.layout.world_size else {"GALLEY_ELASTIC": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.train.preloaded"])
    if uses_cpu_adam(spec.recipe.strategy):
        build_cpu_adam()
    if kept_on_drive(spec.recipe.strategy):
        build_async_io()
    RunFolder(root).write_spec(spec.sealed)
    shared = {
        "WORLD_SIZE": str(world_size),
        **elastic,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GALLEY_ATTEMPT": str(attempt),
        "GALLEY_RESUME": "1" if attempt > 1 else "0",
        **({} if spec.sealed is spec else {"GALLEY_LAYOUT": compact_json(spec.layout)}),
    }
    processes = []
    for rank in range(world_size):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **environ}
        process = context.Process(target=enter_worker, args=(str(root), spec.sha256, own))
        process.start()
        processes.append(process)
    return processes


def wait(processes: list[BaseProcess], timeout_s: float = 300) -> list[int | None]:
    for process in processes:
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def run_ranks(
    root: Path, spec: RunSpec, attempt: int = 1, world_size: int | None = None, **environ: str
) -> list[int | None]:
    """Exit codes, by rank."""
    return wait(start_ranks(root, spec, attempt, world_size, **environ))


def train(
    root: Path, spec: RunSpec, attempt: int = 1, world_size: int | None = None, **environ: str
) -> RunFolder:
    """A run that must succeed."""
    codes = run_ranks(root, spec, attempt, world_size, **environ)
    folder = RunFolder(root)
    logs = [path.read_text()[-3000:] for path in sorted(folder.logs(attempt).glob("rank-*.log"))]
    assert codes == [0] * (world_size or spec.layout.world_size), "\n".join(logs)
    return folder


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in folder.read_metrics() if "loss" in row]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.model / "model.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
