"""A task small enough to train in a blink, and real ranks that train it through the real worker.

Ranks are forked from a server that has torch loaded, so that a run costs no imports.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from galley.drive import has_libaio, kept_on_drive
from galley.rundir import RunFolder
from galley.schema import Batch as BatchSizes
from galley.schema import Eval, Optim, Recipe, Schedule, Strategy, Train
from galley.spec import CodeSnapshot, Layout, RunSpec, compact_json
from tests.support import not_available
from trainer.rank_facts import RankFacts
from trainer.ranks import Ranks
from trainer.strategies.base import Setup
from trainer.strategies.plain import DdpEngine
from trainer.strategies.zero_config import uses_cpu_adam
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset

VOCABULARY, WIDTH, NUM_LABELS = 60, 16, 2
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


class TinyDataset:
    """Seeded token sequences; the label says whether their mean is high. Lengths 3 to 20."""

    def __init__(self, num_samples: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.lengths = random.integers(3, 21, num_samples).astype(np.int32)
        self.samples = [random.integers(1, VOCABULARY, n).tolist() for n in self.lengths]
        self.labels = [int(np.mean(tokens) > VOCABULARY / 2) for tokens in self.samples]
        self.fingerprint = hashlib.sha256(json.dumps(self.samples).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        return [{"tokens": self.samples[i], "label": self.labels[i], "index": i} for i in indices]


class TinyModel(torch.nn.Module):
    """Mean of dropped-out embeddings, two layers and a norm; its middle can be recomputed.

    TINY_INNER is the width between the layers: 32768 is enough for a drive at two ranks. TINY_BLOCKS
    more layers of that width make it heavy.
    """

    supports_gradient_checkpointing = True

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.recomputing = False
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.dropout = torch.nn.Dropout(dropout)
        inner = int(os.environ.get("TINY_INNER", 2 * WIDTH))
        self.hidden = torch.nn.Linear(WIDTH, inner)
        self.norm = torch.nn.LayerNorm(inner)
        num_blocks = int(os.environ.get("TINY_BLOCKS", 0))
        self.blocks = torch.nn.Sequential(*[torch.nn.Linear(inner, inner) for _ in range(num_blocks)])
        self.head = torch.nn.Linear(inner, NUM_LABELS)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = (tokens > 0).unsqueeze(-1)
        mean = (self.dropout(self.embedding(tokens)) * mask).sum(1) / mask.sum(1)
        if self.recomputing and self.training:
            found = torch.utils.checkpoint.checkpoint(self.middle, mean, use_reentrant=False)
        else:
            found = self.middle(mean)
        return self.head(found) / self.temperature

    def middle(self, mean: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.norm(torch.nn.functional.gelu(self.hidden(mean))))

    def gradient_checkpointing_enable(self, options: dict[str, bool]) -> None:
        assert options == {"use_reentrant": False}
        self.recomputing = True


class LonelyEngine(DdpEngine):
    """DDP that never sums gradients: what a wrapper without a common process group does."""

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        with self.ddp.no_sync():
            yield


class Hungry(torch.autograd.Function):
    """The identity, whose backward asks for more memory than there is."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] + torch.empty(2**58, device=grads[0].device)


def await_writer() -> None:
    """Until no checkpoint is being written, so that the one before a kill is complete."""
    root = Path(sys.argv[sys.argv.index("--run-dir") + 1])
    deadline = time.monotonic() + 20
    while "TINY_WRITE" not in os.environ and list(root.glob("checkpoints/.step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


class TinyTask(Task):
    """Reads its own knobs from the environment: DROPOUT, and what goes wrong at which step."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.num_losses = 0
        self.trace = os.environ.get("TINY_TRACE")

    def datasets(self, main_first: MainFirst) -> Datasets:
        with main_first():
            train = TinyDataset(int(os.environ.get("TINY_SAMPLES", "70")), seed=1)
            return Datasets(train, TinyDataset(45, seed=2) if self.recipe.eval.enabled else None)

    def model(self) -> torch.nn.Module:
        own = int(os.environ["RANK"]) if "TINY_OWN_WEIGHTS" in os.environ else 0
        own += int(os.environ.get("TINY_BASE_SEED", "0"))
        torch.manual_seed(self.recipe.seed + own)
        return TinyModel(float(os.environ.get("TINY_DROPOUT", "0.1")))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        longest = max(len(sample["tokens"]) for sample in samples)
        rows = [sample["tokens"] + [0] * (longest - len(sample["tokens"])) for sample in samples]
        return {
            "tokens": torch.tensor(rows),
            "label": torch.tensor([sample["label"] for sample in samples]),
            "index": torch.tensor([sample["index"] for sample in samples]),
        }

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        if model.training:
            self._misbehave()
            if self.trace:
                with Path(f"{self.trace}.{os.environ['RANK']}").open("a") as stream:
                    stream.write(json.dumps(batch["index"][weights > 0].tolist()) + "\n")
        logits = model(batch["tokens"]).float()
        losses = torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")
        if model.training and self._is_too_much(len(losses)):
            losses = Hungry.apply(losses)  # type: ignore[no-untyped-call]
        return (losses * weights).sum() * (float("nan") if self.num_losses == self._at("NAN") else 1.0)

    def _misbehave(self) -> None:
        self.num_losses += 1
        if "TINY_PEAK" in os.environ and self.num_losses == 1:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            Path(f"{os.environ['TINY_PEAK']}.{os.environ['RANK']}").write_text(str(peak))
        if self.num_losses == self._at("TOUCH"):
            Path(os.environ["TINY_TOUCHED"]).touch()
        if self.num_losses == self._at("KILL"):
            await_writer()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.num_losses == self._at("HANG"):
            signal.pause()
        if self.num_losses == self._at("RAISE"):
            raise RuntimeError("this task fails on purpose")

    def _is_too_much(self, num_samples: int) -> bool:
        """TINY_MEMORY=N@STEP: from that step on, the last rank has room for N samples."""
        room, _, step = os.environ.get("TINY_MEMORY", "").partition("@")
        last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
        return bool(room) and last and num_samples > int(room) and self.step >= int(step)

    def _at(self, event: str) -> int:
        """The loss at which it happens, on the last rank: TINY_KILL=5."""
        last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
        return int(os.environ.get(f"TINY_{event}", "-1")) if last else -1

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch["tokens"]).float().detach()

    def metrics(self, predictions: np.ndarray[Any, Any], dataset: TokenizedDataset) -> dict[str, float]:
        labels = np.array([row["label"] for row in dataset.rows(range(len(dataset)))])
        return {"accuracy": float((predictions.argmax(-1) == labels).mean())}

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        save_file(state, f"{folder}/model.safetensors")


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
    return replace(recipe, **changes)


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
    import trainer.session
    import trainer.tasks
    from trainer import strategies
    from trainer.own_code import add_folders
    from trainer.worker import main

    os.environ.update(environ)
    if "TINY_ENGINE" in environ:
        for key in strategies.ENGINES:
            strategies.ENGINES[key] = environ["TINY_ENGINE"]
    if "TINY_PLAN" in environ:
        module, _, name = environ["TINY_PLAN"].partition(":")
        trainer.session.BatchPlan = getattr(importlib.import_module(module), name)  # type: ignore[misc]
    if "TINY_SYNC_DEBUG" in environ:
        raise_on_waiting(int(environ["TINY_SYNC_DEBUG"]))
    if "TINY_PLUGINS" in environ:
        add_folders([Path(environ["TINY_PLUGINS"])])
    if "OWN_TASK" not in environ:
        trainer.tasks.make_task = TinyTask  # type: ignore[attr-defined]
    if "TINY_WRITE" in environ:
        trainer.checkpoints.store.save_file = save_in_trouble  # type: ignore[attr-defined]
    sys.argv = ["worker", "--run-dir", run_dir, "--sha256", sha256]
    main()


def raise_on_waiting(first_step: int) -> None:
    """From that step on torch raises wherever a training step would wait for the GPU."""
    from trainer.loop import Loop

    train_step = Loop._train_step

    def watched(self: Loop, batch: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.step >= first_step else "default")
        train_step(self, batch)
        torch.cuda.set_sync_debug_mode("default")

    Loop._train_step = watched  # type: ignore[method-assign]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@cache
def build_cpu_adam() -> None:
    """Compiled once for all (a minute): the time that a run is given is not for that."""
    from trainer.strategies.zero_ops import load_cpu_adam

    os.environ["DS_ACCELERATOR"] = "cpu"
    load_cpu_adam(Setup(tiny_recipe(), tiny_spec(tiny_recipe(), 1).layout, lone_rank()))


@cache
def build_async_io() -> None:
    """As `build_cpu_adam`; five minutes."""
    if not has_libaio():
        not_available("libaio-dev is not installed", "state on an NVMe drive")
    from trainer.strategies.zero_ops import load_async_io

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
