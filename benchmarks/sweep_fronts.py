"""How good a front a sweep finds with the same training: pruning for several objectives, and without.

    python -m benchmarks.sweep_fronts [--budget 40] [--seeds 5] [--json]

A trial is a learning curve: both losses of ZDT1 (Zitzler et al., 2000; five variables) fall to their end
over 27 epochs, with a share that a variable of the point decides. A budget of `--budget` whole trainings
is spent by NSGA-II and TPE, as Optuna has them, and by TPE with the rungs of `hpo.pruning.kind=pareto`,
which ends trials early and so tries more. The measure is the hypervolume of the trials that went to
their end, up to (1.1, 6), as a share of that of the true front: mean and standard deviation over the seeds.
No ranks, no processes: the curves are computed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from hpo.pareto import hypervolume
from hpo.pruning.rungs import rungs, survives

EPOCHS, ETA, FIRST, MIN_TRIALS, VARIABLES = 27, 3, 1 / 27, 4, 5
REFERENCE = (1.1, 6.0)
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


def summary(found: Sequence[Found]) -> dict[str, float]:
    shares = [one.share for one in found]
    trials = statistics.median(one.trials for one in found)
    sd = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return {"mean": statistics.mean(shares), "sd": sd, "trials": trials}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep_fronts")
    parser.add_argument("--budget", type=int, default=40, help="whole trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = {name: summary(found) for name, found in measure(asked.budget, asked.seeds).items()}
    if asked.json:
        print(json.dumps(rows))
        return
    table = Table(f"budget of {asked.budget} trainings, {asked.seeds} seeds", "hypervolume", "trials")
    for name, row in rows.items():
        table.add_row(name, f"{row['mean']:.3f} ± {row['sd']:.3f}", f"{row['trials']:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
