"""What a sweep costs beside its training, and how well it uses its slots, next to other tools.

    python -m benchmarks.sweeps [--trials 5] [--parts overhead,slots] [--shortest 10] [--json]
                                [--hydra FOLDER]

overhead: seconds a trial takes from the moment its parameters are drawn to the moment its end is
known, less the seconds of its training loop; two ranks, MiniLM, two steps. The first trial of each
row is left out. No row writes a model; only Galley's trials are sealed, with a folder and a journal.
`--hydra FOLDER` is an environment of its own for Hydra's sweeper, made there where it is missing.
slots: Σ seconds of training ÷ (slots × seconds), from the start of the first trial to that of the last
(after it slots run empty in any order), of trials of heavy-tailed length that sleep. The barrier of
Hydra's sweepers is given its best case: the same lengths in batches, no overhead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sweep_peers import BATCH, SAMPLES, torchrun

ROOT = Path(__file__).resolve().parent.parent
SLOTS, LENGTHS = 4, 24
# The sweeper pins optuna < 3, which needs SQLAlchemy 1.
HYDRA_PACKAGES = (
    "hydra-core==1.3.8", "hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "sqlalchemy==1.4.54",
)  # fmt: skip
SMALL = [
    f"data.max_samples={SAMPLES}", f"batch.global_size={BATCH}", "train.epochs=1", "eval.enabled=false",
    "checkpoint.every_steps=null", "cluster.procs_per_node=2", "train.log_every_steps=1",
    "hpo.objectives=[train/loss:min]", "optim.lr=tag(log, interval(1e-6,1e-4))", "checkpoint.model=false",
]  # fmt: skip


def galley(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The trials of a sweep, as `status --json` has them; ends the benchmark where it fails."""
    argv = [sys.executable, "-P", str(ROOT / "train.py")]
    done = subprocess.run(
        [*argv, "sweep", *words, f"hpo.study_dir={folder}", "--json"], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the sweep failed:\n{done.stderr}")
    trials: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["trials"]
    return trials


def galley_overhead(folder: Path, trials: int, warm: bool) -> list[float]:
    words = ["hpo=random", f"hpo.trials={trials}", f"hpo.warm={str(warm).lower()}", *SMALL]
    return [_overhead(trial) for trial in galley(folder, *words)]


def _overhead(trial: dict[str, Any]) -> float:
    result = json.loads((Path(trial["run"]) / "result.json").read_bytes())
    return float(trial["ended_at"] - trial["started_at"] - result["train_s"])


def optuna_torchrun(folder: Path, trials: int, warm: bool = False) -> list[float]:
    """Optuna's ask and tell around one torchrun a trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, found = optuna.create_study(), []
    for number in range(trials):
        started = time.perf_counter()
        asked = study.ask()
        out = folder / f"{number}.json"
        lr = asked.suggest_float("lr", 1e-6, 1e-4, log=True)
        torchrun(sys.executable, "trial", str(out), str(lr))
        told = json.loads(out.read_text())
        study.tell(asked, told["loss"])
        found.append(time.perf_counter() - started - told["train_s"])
    return found


def trainer_search(folder: Path, trials: int) -> list[float]:
    out = folder / "search.json"
    torchrun(sys.executable, "search", str(out), str(trials))
    return [row["wall_s"] - row["train_s"] for row in json.loads(out.read_text())]


def hydra_environment(folder: Path) -> str:
    """Its interpreter; made with the packages that Hydra's sweeper needs, none of which may be newer."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *HYDRA_PACKAGES], check=True)
    return str(python.absolute())


def hydra_sweeper(folder: Path, trials: int, python: str) -> list[float]:
    """One trial at a time, each a torchrun of this environment, from one end to the next."""
    log, script = folder / "trials.jsonl", str(ROOT / "benchmarks" / "sweep_peers.py")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", f"hydra.sweeper.n_trials={trials}"]
    where = [f"hydra.sweep.dir={folder}/out", "+lr=interval(1e-6,1e-4)"]
    argv = [python, script, "hydra", sys.executable, str(log), "--multirun", *words, *where]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"Hydra's sweeper failed:\n{done.stderr}")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["ended"] - before["ended"] - row["train_s"] for before, row in itertools.pairwise(rows)]


def measure_overhead(trials: int, hydra_python: str | None) -> dict[str, Any]:
    """Row -> median, least and greatest seconds. The rows run one after the other."""
    rows: dict[str, Callable[[Path], list[float]]] = {
        "galley, warm": lambda folder: galley_overhead(folder / "study", trials, True)[1:],
        "galley, cold": lambda folder: galley_overhead(folder / "study", trials, False)[1:],
        "Optuna + torchrun": lambda folder: optuna_torchrun(folder, trials)[1:],
        "Trainer.hyperparameter_search": lambda folder: trainer_search(folder, trials)[1:],
    }
    if hydra_python:
        rows["Hydra's Optuna sweeper"] = lambda folder: hydra_sweeper(folder, trials, hydra_python)
    found: dict[str, Any] = {}
    for name, measure in rows.items():
        with tempfile.TemporaryDirectory() as folder:
            taken = measure(Path(folder))
        print(f"{name}: {taken}", file=sys.stderr, flush=True)
        found[name] = {"median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}
    best = found["galley, warm"]["median_s"]
    return {name: {**row, "ratio": row["median_s"] / best} for name, row in found.items()}


def lengths(shortest_s: float, seed: int = 3) -> list[int]:
    """Milliseconds: Pareto with exponent 1.5, from the shortest to eight times as long."""
    draw = random.Random(seed)
    return [int(1000 * shortest_s * min(8.0, draw.paretovariate(1.5))) + n for n in range(LENGTHS)]


def measure_slots(shortest_s: float) -> dict[str, float]:
    """Utilisation of `SLOTS` slots, by Galley measured, by a barrier computed."""
    every = lengths(shortest_s)
    with tempfile.TemporaryDirectory() as folder:
        trials = galley(
            Path(folder) / "study", "hpo=grid", "hpo.trials=null", f"hpo.parallel={SLOTS}", "hpo.warm=true",
            f"plugins=[{ROOT}/benchmarks/sleeper]", "task.kind=sleeper:Sleeper", "strategy=single",
            "batch.global_size=1", "train.max_steps=1", "eval.enabled=false", "checkpoint.every_steps=null",
            "hpo.objectives=[train/loss:min]", f"seed={','.join(map(str, every))}",
            "cluster.threads_per_proc=1",
        )  # fmt: skip
        # By their forks: the server's imports are paid once a sweep, however long it is.
        starts = {trial["params"]["seed"]: _forked_at(trial) for trial in trials}
    measured = [(starts[length], length / 1000) for length in every]
    return {
        "galley, warm": utilisation(measured),
        "barrier, at best": utilisation(_barrier(every)),
        "longest trial, s": max(every) / 1000,
        "median trial, s": statistics.median(every) / 1000,
    }


def _forked_at(trial: dict[str, Any]) -> float:
    attempts = json.loads((Path(trial["run"]) / "launch.json").read_bytes())["attempts"]
    return float(attempts[-1]["started_at"])


def _barrier(every: Sequence[int]) -> list[tuple[float, float]]:
    """(start, seconds) of trials that are started in batches, each when the last of the one before ends."""
    found, now = [], 0.0
    for first in range(0, len(every), SLOTS):
        batch = [length / 1000 for length in every[first : first + SLOTS]]
        found += [(now, length) for length in batch]
        now += max(batch)
    return found


def utilisation(trials: Sequence[tuple[float, float]]) -> float:
    """Share of the slots' time that trials of (start, seconds) fill, until the last of them starts."""
    begin, end = min(start for start, _ in trials), max(start for start, _ in trials)
    filled = sum(min(start + seconds, end) - start for start, seconds in trials)
    return filled / (SLOTS * (end - begin))


def show(found: dict[str, Any]) -> None:
    if "overhead" in found:
        table = Table("overhead a trial", "median s", "min s", "max s", "÷ warm", title_justify="left")
        for name, row in found["overhead"].items():
            table.add_row(
                name, *(f"{row[key]:.3f}" for key in ("median_s", "min_s", "max_s")), f"{row['ratio']:.1f}"
            )
        Console().print(table)
    if "slots" in found:
        table = Table(f"utilisation of {SLOTS} slots", "share")
        for name, share in found["slots"].items():
            table.add_row(name, f"{share:.3f}")
        Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sweeps")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--parts", default="overhead,slots")
    parser.add_argument("--shortest", type=float, default=10.0, help="seconds of the shortest sleeping trial")
    parser.add_argument("--hydra", type=Path, help="folder of an environment for Hydra's sweeper")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    parts = asked.parts.split(",")
    found: dict[str, Any] = {}
    if "overhead" in parts:
        python = hydra_environment(asked.hydra) if asked.hydra else None
        found["overhead"] = measure_overhead(asked.trials, python)
    if "slots" in parts:
        found["slots"] = measure_slots(asked.shortest)
    print(json.dumps(found)) if asked.json else show(found)


if __name__ == "__main__":
    main()
