"""Sweeps: what is searched, for what, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.registry import BACKENDS
from galley.schema.types import Fraction, NameIn, NonNegative, Positive


@dataclass(frozen=True)
class Pruning:
    """When a trial is ended early because others do better. Needs `eval.every_steps` or `eval.every_epochs`.

    Attributes:
        kind: `median`, `asha` and `hyperband` judge one objective; `pareto` any number, by
            non-dominated sorting at each rung.
        eta: of the trials that reach a rung, one in so many goes on; each rung is so many times
            further than the one before.
        min_fraction: of a trial's training, before which it is not judged: the first rung.
        min_trials: trials that reach a rung before one is judged there.
    """

    kind: Literal["none", "median", "asha", "hyperband", "pareto"] = "none"
    eta: Annotated[int, Field(ge=2)] = 3
    min_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_trials: Positive = 4


@dataclass(frozen=True)
class Choose:
    """Which trial of the front is the winner.

    Attributes:
        by: `knee`: nearest to the ideal; `weighted`: the greatest weighted sum; `epsilon`: the best
            in `metric` among those that keep `bounds`; `budget`: the same, where `bounds` are limits of
            cost (`wall_s`, `peak_memory_gib`, …).
        metric: null is the first objective.
        weights: objective -> weight, each objective scaled to the range of the front.
        bounds: metric -> the worst value allowed: the least of one that is better when greater, else the
            greatest.
    """

    by: Literal["knee", "weighted", "epsilon", "budget"] = "knee"
    metric: str | None = None
    weights: dict[str, Annotated[float, Field(ge=0)]] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pbt:
    """Population based training, `hpo=pbt` (Jaderberg et al. 2017, arXiv:1711.09846).

    Attributes:
        population: members, each trained in as many intervals; `hpo.trials` counts those of all members.
        perturbation_interval: optimizer steps of an interval; null shares `train.max_steps` out evenly.
        quantile_fraction: share of the members that are the worst, and go on from the weights and
            parameters of one of as many best ones.
        resample_probability: that such a member draws a parameter anew from the space.
        perturbation_factors: otherwise a number is multiplied by one of them, and a choice becomes one
            that stands beside it.
    """

    population: Annotated[int, Field(ge=2)] = 4
    perturbation_interval: Positive | None = None
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample_probability: Fraction = 0.25
    perturbation_factors: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.2, 0.8)


@dataclass(frozen=True)
class Hpo:
    """The sweep around the run; `none` runs it once.

    Attributes:
        trials: points that are tried, repeats included; null is all points of a grid. Of `pbt` the
            intervals of all members together.
        parallel: trials that run at the same time; a slot is refilled as soon as its trial ends.
        objectives: `METRIC`, `METRIC:max`, `METRIC:min` or `{metric, direction, bound}` each; a metric
            is one of the task's (`eval/f1`), `samples_per_s`, `tokens_per_s`, `latency_s`, `wall_s`,
            `train_s`, `peak_memory_gib`, `cost` or `train/loss`.
        space: recipe key or config group -> a list of choices; `{low, high, log, step}`;
            `{choices: [...], when: {KEY: [VALUES]}}`; or Hydra's `interval()`, `range()`, `choice()`.
            `KEY=choice(…)` on the command line adds to it.
        constraints: `{metric, min, max}` each: bounds of metrics that are no objectives.
        points: file with points to try first, as they are known to be good or of interest: a YAML or JSON
            list of mappings with a value for every dimension.
        max_memory_gib: a point whose memory estimate a rank is above it is never started; null is
            what a rank has on this machine.
        study_dir: the study's folder; null is `runs/RECIPE-KIND-sweep`, with a number behind it.
        sampler: of optuna: `tpe`, `nsga2`, `nsga3`, `gp`, `random`, `grid`, `cmaes`; null is optuna's
            own choice.
        storage: of optuna: URL of a database (`sqlite:///F`, `postgresql://…`, `mysql+pymysql://…`), or
            `env:NAME`, the variable that holds one; null is a file of the study's folder.
        seed: of the draws; null is the recipe's.
        repeats: how many seeds each point is run with, one trial each.
        min_successes: runs of a point that must succeed before their mean can be on the front; null: all
            `repeats`.
        retries: how often a trial is started again after a failure that another attempt may not have.
        cost_per_hour: of one node, in any currency; for the objective `cost`.
        share: other controllers may join the study, by `resume STUDY` on any machine that sees its
            folder; each runs `parallel` trials, and takes over those of one that died.
        array: submit all trials at once as one job array of Slurm, `parallel` of which run at a time;
            for points that depend on no result (`hpo=grid` and `hpo=random`).
        warm: start trials from processes that hold the libraries already, where the launcher can.
        options: of a backend from outside Galley, which is given them as they are.
    """

    kind: Annotated[str, NameIn(BACKENDS, ("none", "wandb"))] = "none"
    trials: Positive | None = 20
    parallel: Positive = 1
    objectives: list[str | dict[str, str | float | None]] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)
    constraints: list[dict[str, str | float | None]] = field(default_factory=list)
    points: str | None = None
    max_memory_gib: Annotated[float, Field(gt=0)] | None = None
    study_dir: str | None = None
    sampler: Literal["tpe", "nsga2", "nsga3", "gp", "random", "grid", "cmaes"] | None = None
    storage: str | None = None
    seed: NonNegative | None = None
    repeats: Positive = 1
    min_successes: Positive | None = None
    retries: NonNegative = 2
    cost_per_hour: Annotated[float, Field(ge=0)] | None = None
    share: bool = False
    array: bool = False
    warm: bool = False
    pruning: Pruning = field(default_factory=Pruning)
    pbt: Pbt = field(default_factory=Pbt)
    choose: Choose = field(default_factory=Choose)
    options: dict[str, Any] = field(default_factory=dict)
