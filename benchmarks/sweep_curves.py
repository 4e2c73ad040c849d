"""Learning curves of real runs of `quickstart`, over a grid of learning rates and batch sizes.

Each point is trained as the recipe says, two epochs on two ranks, in a warm trial of a sweep of its own
batch size. After each quarter the loss of the evaluation and the mean samples/s are taken, by the code
that judges trials (`hpo.pruning.curves`). Thirty-six runs: three quarters of an hour on two cores.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.sweeps import galley
from galley.rundir import RunFolder
from hpo.pruning.curves import reports
from hpo.study.values import Objective

LEARNING_RATES = [round(2e-5 * 50 ** (n / 11), 8) for n in range(12)]  # 2e-5 to 1e-3
BATCHES = [16, 32, 48]
QUARTERS = (0.25, 0.5, 0.75, 1.0)
SAMPLES = 2 * 960  # a training
OBJECTIVES = (Objective("eval/loss", "minimize"), Objective("samples_per_s", "maximize"))
Curve = dict[float, tuple[float, float]]  # after each quarter (loss, −samples/s)


def read_or_train(file: Path) -> dict[tuple[float, int], Curve]:
    """(learning rate, batch size) -> the curve in `file`, which is written first where it is missing."""
    if not file.exists():
        lines = [line for batch in BATCHES for line in _train(batch, LEARNING_RATES)]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        (rate, batch): {at: (loss, speed) for at, (loss, speed) in zip(QUARTERS, curve, strict=True)}
        for rate, batch, curve in found
    }


def _train(batch: int, rates: Sequence[float]) -> Iterator[tuple[float, int, list[tuple[float, ...]]]]:
    """(learning rate, batch size, losses after each quarter) of each run."""
    steps = SAMPLES // batch
    words = [
        "hpo=grid", "hpo.trials=null", f"hpo.space.optim.lr={list(rates)}", "hpo.warm=true",
        f"hpo.objectives=[{','.join(objective.metric for objective in OBJECTIVES)}]",
        f"batch.global_size={batch}", f"eval.every_steps={steps // 4}", "cluster.procs_per_node=2",
        "checkpoint.every_steps=null", "checkpoint.model=false",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for trial in galley(Path(folder) / "study", *words):
            metrics = RunFolder(Path(trial["run"])).read_metrics()
            curve = [report.losses for report in reports(metrics, steps, OBJECTIVES, (), 0.0)]
            yield trial["params"]["optim.lr"], batch, curve
