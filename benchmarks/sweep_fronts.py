"""How good a front a sweep finds with the same training: pruning for several objectives, and without.

    python -m benchmarks.sweep_fronts [--budget 40] [--seeds 5] [--real FILE] [--json]

A trial is a learning curve: both losses of ZDT1 (Zitzler et al., 2000; five variables) fall to their end
over 27 epochs, with a share that a variable of the point decides. A budget of `--budget` whole trainings
is spent by NSGA-II and TPE, as Optuna has them, and by TPE with the rungs of `hpo.pruning.kind=pareto`,
which ends trials early and so tries more. The measure is the hypervolume of the trials that went to
their end, up to (1.1, 6), as a share of that of the true front: mean and standard deviation over the seeds.
No ranks, no processes: the curves are computed.

`--real FILE` takes curves of real runs of `quickstart` instead, which `benchmarks.sweep_curves` makes
where FILE is missing: each sweep draws from their grid, for a low loss of the evaluation and many samples/s.
Hypervolume is a share of that of the whole grid, up to the loss of a coin and 0 samples/s.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks import sweep_curves
from hpo.pareto import hypervolume
from hpo.pruning.rungs import rungs, survives

EPOCHS, MIN_TRIALS = 27, 4
ROUNDING = 1e-9  # of sums of shares
Losses = tuple[float, float]
Curve = Mapping[float, Losses]  # by the share of the training; has every rung, and the end at 1


@dataclass(frozen=True)
class Task:
    """What is swept.

    Attributes:
        draw: the curve of the point that a trial suggests.
        eta: of the rungs.
        firsts: row of the table -> its first rung; one row a way to prune.
        reference, whole: of the hypervolume, and the greatest there is.
    """

    draw: Callable[[optuna.Trial], Curve]
    eta: int
    firsts: Mapping[str, float]
    reference: Losses
    whole: float


@dataclass(frozen=True)
class Found:
    """What one sweep came to. `trials` counts those that were ended early too."""

    share: float
    trials: int


def zdt1(x: Sequence[float]) -> Losses:
    g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
    return x[0], g * (1 - math.sqrt(x[0] / g))


def zdt1_curve(x: Sequence[float], at: float) -> Losses:
    """The losses after a share of the training: above those of the end by what falls to nothing."""
    left = (1 - at) * math.exp(-3 * at)
    first, second = zdt1(x)
    return first + 0.2 * left * (1 + x[-1]), second + 2 * left * (1 + x[-1])


def computed() -> Task:
    """ZDT1, whose true front is where every variable but the first is 0."""
    first, eta = 1 / EPOCHS, 3

    def draw(trial: optuna.Trial) -> Curve:
        x = [trial.suggest_float(f"x{n}", 0, 1) for n in range(5)]
        return {at: zdt1_curve(x, at) for at in [*rungs(first, eta), 1.0]}

    front = [(n / 1000, 1 - math.sqrt(n / 1000)) for n in range(1001)]
    reference = (1.1, 6.0)
    return Task(draw, eta, {"TPE, Galley's pruning": first}, reference, hypervolume(front, reference))


def real(file: Path) -> Task:
    """The grid of `benchmarks.sweep_curves`."""
    curves = sweep_curves.read_or_train(file)
    rates, batches = (sorted(set(values)) for values in zip(*curves, strict=True))

    def draw(trial: optuna.Trial) -> Curve:
        rate = rates[trial.suggest_int("rate", 0, len(rates) - 1)]
        return curves[rate, batches[trial.suggest_int("batch", 0, len(batches) - 1)]]

    reference = (math.log(2), 0.0)
    whole = hypervolume([curve[1.0] for curve in curves.values()], reference)
    firsts = {f"TPE, Galley's pruning from {at:.0%} on": at for at in (0.25, 0.5)}
    return Task(draw, 2, firsts, reference, whole)


def measure(task: Task, budget: int, seeds: int) -> dict[str, list[Found]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = {"NSGA-II": (_nsga2, 1.0), "TPE": (_tpe, 1.0)}
    rows |= {name: (_tpe, first) for name, first in task.firsts.items()}
    return {
        name: [sweep(task, make(seed), budget, first) for seed in range(seeds)]
        for name, (make, first) in rows.items()
    }


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=10)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def sweep(task: Task, sampler: BaseSampler, budget: int, first: float) -> Found:
    """One trial after another until `budget` whole trainings are spent; the last is cut off.

    A first rung of 1 ends no trial early.
    """
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    at = {rung: list[Losses]() for rung in rungs(first, task.eta)}
    ended: list[Losses] = []
    left, trials = float(budget), 0
    while left > ROUNDING:
        trial = study.ask()
        curve = task.draw(trial)
        trials += 1
        spent = _train(curve, at, task.eta)
        left -= spent
        if spent < 1:
            study.tell(trial, state=TrialState.PRUNED)
        elif left > -ROUNDING:
            ended.append(curve[1.0])
            study.tell(trial, ended[-1])
    return Found(hypervolume(ended, task.reference) / task.whole, trials)


def _train(curve: Curve, at: Mapping[float, list[Losses]], eta: int) -> float:
    """The share of the training after which the trial ends; notes what it had at each rung."""
    for rung, others in at.items():
        goes_on = len(others) + 1 < MIN_TRIALS or survives(curve[rung], others, eta)
        others.append(curve[rung])
        if not goes_on:
            return rung
    return 1.0


def summary(found: Sequence[Found]) -> dict[str, float]:
    shares = [one.share for one in found]
    trials = statistics.median(one.trials for one in found)
    sd = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return {"mean": statistics.mean(shares), "sd": sd, "trials": trials}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep_fronts")
    parser.add_argument("--budget", type=int, default=40, help="whole trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--real", type=Path, metavar="FILE", help="curves of quickstart; made where missing")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    task = real(asked.real) if asked.real else computed()
    rows = {name: summary(found) for name, found in measure(task, asked.budget, asked.seeds).items()}
    if asked.json:
        print(json.dumps(rows))
        return
    table = Table(f"budget of {asked.budget} trainings, {asked.seeds} seeds", "hypervolume", "trials")
    for name, row in rows.items():
        table.add_row(name, f"{row['mean']:.3f} ± {row['sd']:.3f}", f"{row['trials']:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
