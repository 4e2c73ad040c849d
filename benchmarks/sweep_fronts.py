"""How good a front a sweep finds with the same training: pruning for several objectives, and without.

    python -m benchmarks.sweep_fronts [--budget 40] [--seeds 5] [--real TRAININGS] [--json]

A trial is a learning curve: both losses of ZDT1 (Zitzler et al., 2000; five variables) fall to their end
over 27 epochs, with a share that a variable of the point decides. A budget of `--budget` whole trainings
is spent by NSGA-II and TPE, as Optuna has them, and by TPE with the rungs of `hpo.pruning.kind=pareto`,
which ends trials early and so tries more. The measure is the hypervolume of the trials that went to
their end, up to (1.1, 6), as a share of that of the true front: mean and standard deviation over the seeds.
No ranks, no processes: the curves are computed.

`--real N` spends N trainings a row on runs of `quickstart` instead, warm, one after another: loss of the
evaluation and samples/s, over the learning rate and the length of the samples. The budget is optimizer
steps; hypervolume is a share of that of all rows' trials together, up to the loss of a coin and 0 samples/s.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.sweeps import galley
from galley.rundir import RunFolder
from hpo.pareto import hypervolume
from hpo.pruning.rungs import rungs, survives

EPOCHS, ETA, FIRST, MIN_TRIALS, VARIABLES = 27, 3, 1 / 27, 4, 5
REFERENCE = (1.1, 6.0)
REAL_STEPS, REAL_REFERENCE = 12, (math.log(2), 0.0)
REAL = [
    "hpo=optuna", "hpo.warm=true", "hpo.objectives=[eval/loss,samples_per_s]", "strategy=single",
    "optim.lr=tag(log, interval(1e-5, 1e-3))", "hpo.space.data.max_length=[16,32,64]", "batch.global_size=16",
    f"train.max_steps={REAL_STEPS}", "train.log_every_steps=3", "eval.every_steps=3", "data.max_samples=256",
    "checkpoint.every_steps=null", "checkpoint.model=false",
]  # fmt: skip
Losses = tuple[float, float]


@dataclass(frozen=True)
class Found:
    """What one sweep came to. `trials` counts those that were ended early too."""

    share: float
    trials: int


def zdt1(x: Sequence[float]) -> Losses:
    g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
    return x[0], g * (1 - math.sqrt(x[0] / g))


def curve(x: Sequence[float], epoch: int) -> Losses:
    """The losses after so many epochs: above those of the end by a share that falls to nothing."""
    left = (1 - epoch / EPOCHS) * math.exp(-3 * epoch / EPOCHS)
    first, second = zdt1(x)
    return first + 0.2 * left * (1 + x[-1]), second + 2 * left * (1 + x[-1])


def sweep(sampler: BaseSampler, budget: int, prunes: bool) -> Found:
    """One trial after another until `budget` × `EPOCHS` epochs are spent; the last is cut off."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    at = {max(1, round(rung * EPOCHS)): list[Losses]() for rung in rungs(FIRST, ETA)} if prunes else {}
    ended: list[Losses] = []
    left, trials = budget * EPOCHS, 0
    while left > 0:
        trial = study.ask()
        x = [trial.suggest_float(f"x{n}", 0, 1) for n in range(VARIABLES)]
        trials += 1
        spent = _train(x, at)
        left -= spent
        if spent < EPOCHS:
            study.tell(trial, state=TrialState.PRUNED)
        elif left >= 0:
            ended.append(zdt1(x))
            study.tell(trial, ended[-1])
    return Found(hypervolume(ended, REFERENCE) / _whole(), trials)


def _train(x: Sequence[float], at: dict[int, list[Losses]]) -> int:
    """Epochs until the trial's end; notes what it had at each rung."""
    for epoch, others in at.items():
        own = curve(x, epoch)
        goes_on = len(others) + 1 < MIN_TRIALS or survives(own, others, ETA)
        others.append(own)
        if not goes_on:
            return epoch
    return EPOCHS


def _whole(count: int = 1000) -> float:
    """Hypervolume of the true front, where every variable but the first is 0."""
    firsts = [n / count for n in range(count + 1)]
    return hypervolume([(f, 1 - math.sqrt(f)) for f in firsts], REFERENCE)


def measure(budget: int, seeds: int) -> dict[str, list[Found]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {"NSGA-II": (_nsga2, False), "TPE": (_tpe, False), "TPE, Galley's pruning": (_tpe, True)}
    return {
        name: [sweep(make(seed), budget, prunes) for seed in range(seeds)]
        for name, (make, prunes) in kinds.items()
    }


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=10)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def measure_real(budget: int, seeds: int) -> dict[str, list[Found]]:
    """As `measure`, by sweeps of real runs."""
    rows = {
        "NSGA-II": ["hpo.sampler=nsga2", f"hpo.trials={budget}"],
        "TPE": ["hpo.sampler=tpe", f"hpo.trials={budget}"],
        "TPE, Galley's pruning": [
            *("hpo.sampler=tpe", f"hpo.trials={2 * budget}"),
            *("hpo.pruning.kind=pareto", "hpo.pruning.min_fraction=0.25", "hpo.pruning.eta=2"),
        ],
    }
    found: dict[str, list[Found]] = {name: [] for name in rows}
    for seed in range(seeds):
        ended = {name: _real_sweep([*words, f"hpo.seed={seed}"], budget) for name, words in rows.items()}
        every = [point for points, _ in ended.values() for point in points]
        whole = hypervolume(every, REAL_REFERENCE)
        for name, (points, trials) in ended.items():
            found[name].append(Found(hypervolume(points, REAL_REFERENCE) / whole, trials))
    return found


def _real_sweep(words: Sequence[str], budget: int) -> tuple[list[Losses], int]:
    """Losses of the trials that went to their end before the budget was spent, and how many were begun."""
    with tempfile.TemporaryDirectory() as folder:
        trials = galley(Path(folder) / "study", *REAL, *words)
        left, ended, begun = budget * REAL_STEPS, list[Losses](), 0
        for trial in trials:
            steps = max(row["step"] for row in RunFolder(Path(trial["run"])).read_metrics())
            begun, left = begun + (left > 0), left - steps
            if trial["state"] == "succeeded" and left >= 0:
                ended.append((trial["values"]["eval/loss"], -trial["values"]["samples_per_s"]))
        return ended, begun


def summary(found: Sequence[Found]) -> dict[str, float]:
    shares = [one.share for one in found]
    trials = statistics.median(one.trials for one in found)
    sd = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return {"mean": statistics.mean(shares), "sd": sd, "trials": trials}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep_fronts")
    parser.add_argument("--budget", type=int, default=40, help="whole trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--real", type=int, metavar="TRAININGS", help="of quickstart, a row and seed")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    budget = asked.real or asked.budget
    measured = measure_real(budget, asked.seeds) if asked.real else measure(budget, asked.seeds)
    rows = {name: summary(found) for name, found in measured.items()}
    if asked.json:
        print(json.dumps(rows))
        return
    table = Table(f"budget of {budget} trainings, {asked.seeds} seeds", "hypervolume", "trials")
    for name, row in rows.items():
        table.add_row(name, f"{row['mean']:.3f} ± {row['sd']:.3f}", f"{row['trials']:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
