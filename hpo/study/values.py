"""The values of a sweep. Frozen, with a JSON round trip (`galley.spec.to_json`, `from_json`).

Dimensions and objectives are read from the recipe (`hpo.space`, `hpo.objectives`). A trial is
what the journal knows of one point. A front is what `pareto` reports of all points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from galley.metrics import Direction

TrialState = Literal["running", "succeeded", "pruned", "infeasible", "failed", "cancelled"]
Params = dict[str, Any]

# Final states. `cancelled` is not one of them: `resume` continues such a trial.
ENDED = frozenset({"succeeded", "pruned", "infeasible", "failed"})


@dataclass(frozen=True)
class SpaceDim:
    """One dimension: `key` is a key of the recipe (`optim.lr`) or a config group (`strategy`).

    Attributes:
        low, high: of `float` and `int`, both included.
        step: distance between values, counted from `low`; None: continuous (`float`) or 1 (`int`).
        log: whether it is drawn uniformly in the logarithm.
        choices: of `categorical`: any JSON values.
        when: the dimension exists only if each of these dimensions has one of these values.
    """

    key: str
    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def bounds(self) -> tuple[float, float]:
        """Return low and high of a range. Not for a categorical dimension, which has neither."""
        return self.low or 0, self.high or 0

    def is_active(self, params: Params) -> bool:
        """Return whether the dimension exists at a point, of which the dimensions before it are known."""
        return all(key in params and params[key] in values for key, values in self.when.items())


@dataclass(frozen=True)
class Objective:
    """A metric to optimize.

    Attributes:
        metric: `eval/f1`, `samples_per_s`, … (`hpo.objectives` in the reference).
        bound: a trial whose value is worse is infeasible; None for no bound.
    """

    metric: str
    direction: Direction
    bound: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A metric that is no objective, but must keep a bound (both included)."""

    metric: str
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Trial:
    """One point of the space and its result: one run.

    Attributes:
        number: counts from 0.
        params: recipe key -> value, of the dimensions that exist at this point.
        values: metric -> value for every objective; empty unless it succeeded.
        run: its run folder.
        metrics: all that the run reported at its end, by the names that `hpo.objectives` uses.
        feasible: whether it keeps every bound and constraint.
        message: why it ended as it did; empty if it succeeded.
        attempts: how often its run was started.
        started_at, ended_at: Unix time in seconds, of the ask and of the end.
        repeat_of: the trial of the same point under the first seed; None for a point of its own.
        member: of a population, from 0: the trial is one interval of its training.
        parent: the trial from whose weights it starts, the member's own last one or another's.
    """

    number: int
    state: TrialState
    params: Params
    values: dict[str, float] = field(default_factory=dict)
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    feasible: bool = True
    message: str = ""
    attempts: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    repeat_of: int | None = None
    member: int | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Place:
    """The position of a trial in a population. The fields are those of `Trial`."""

    member: int | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Estimate:
    """A point that was run with several seeds (`hpo.repeats`).

    Attributes:
        number: of the point's first trial.
        shown: the first trial that succeeded, which stands for the point on the front.
        count: the number of runs that succeeded.
        mean: metric -> mean over them.
        std: metric -> sample standard deviation; error: metric -> standard error of the mean. Both are empty
            for one run, which has no spread.
        enough: whether as many runs succeeded as `hpo.min_successes` requires: the point can be on the front.
    """

    number: int
    shown: int
    count: int
    mean: dict[str, float]
    std: dict[str, float]
    error: dict[str, float]
    enough: bool = True


@dataclass(frozen=True)
class ParetoFront:
    """What a study found; `pareto --json` prints it.

    Attributes:
        trials: all, in order of their numbers.
        front: numbers of the feasible trials that no other dominates, ascending. For a point with
            repeats, the first that succeeded stands for their mean (`stands_for`).
        knee: the trial of the front nearest to the ideal point, each objective scaled to the front's range.
        chosen: the trial that the recipe's `hpo.choose` selects; None if it selects none.
        estimates: of each point with repeats.
        directions: metric -> which direction is better, if it is known.
    """

    study: str
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    knee: int | None
    chosen: int | None
    estimates: tuple[Estimate, ...] = ()
    directions: dict[str, Direction] = field(default_factory=dict)

    def estimate(self, number: int) -> Estimate | None:
        """Return the estimate of the point for which this trial stands; None if there is none."""
        return next((estimate for estimate in self.estimates if estimate.shown == number), None)

    def stands_for(self, number: int) -> Trial:
        """Return the trial with the values and metrics that count: for a point with repeats, the means."""
        trial, estimate = self.trials[number], self.estimate(number)
        if estimate is None:
            return trial
        values = {name: estimate.mean[name] for name in trial.values if name in estimate.mean}
        return replace(trial, values=values, metrics=estimate.mean)
