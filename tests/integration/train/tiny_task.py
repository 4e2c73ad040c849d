"""A task small enough to train in a blink, and what may go wrong in it on purpose.

Its knobs are variables of the environment, named where they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from galley.schema import Recipe
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset

VOCABULARY, WIDTH, NUM_LABELS = 60, 16, 2


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


def watch_memory() -> None:
    """From here on the kernel's mark of the most resident memory is new."""
    Path("/proc/self/clear_refs").write_text("5")
    os.environ["TINY_RESIDENT"] = str(resident_mib("VmRSS"))


def note_memory() -> None:
    """TINY_PEAK=FILE: into FILE.RANK, by how many MiB it rose above what there was at `watch_memory`."""
    if "TINY_RESIDENT" in os.environ:
        rise = resident_mib("VmHWM") - float(os.environ.pop("TINY_RESIDENT"))
        Path(f"{os.environ['TINY_PEAK']}.{os.environ['RANK']}").write_text(str(rise))


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(f"{field}:"))


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
        if "TINY_PEAK" in os.environ:
            watch_memory()
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
        note_memory()
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
