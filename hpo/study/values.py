"""The values of a sweep. Frozen, with a JSON round trip (`galley.spec.to_json`, `from_json`).

A dimension and an objective are read from the recipe (`hpo.space`, `hpo.objectives`); a trial is
what the journal knows of one point; a front is what `pareto` says of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from galley.metrics import Direction

TrialState = Literal["running", "succeeded", "pruned", "infeasible", "failed", "cancelled"]
Params = dict[str, Any]

# States in which a trial stays. `cancelled` is not one of them: `resume` takes such a trial up again.
ENDED = frozenset({"succeeded", "pruned", "infeasible", "failed"})


@dataclass(frozen=True)
class SpaceDim:
    """One dimension: `key` is a key of the recipe (`optim.lr`) or a config group (`strategy`).

    Attributes:
        low, high: of `float` and `int`, both included.
        step: distance between values, counted from `low`; null: continuous (`float`) or 1 (`int`).
        log: drawn uniformly in the logarithm.
        choices: of `categorical`: any JSON values.
        when: the dimension exists only where each of these dimensions has one of these values.
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
        """low and high of a range; a categorical dimension has none, and is asked for none."""
        return self.low or 0, self.high or 0

    def is_active(self, params: Params) -> bool:
        """Whether the dimension exists at a point of which the dimensions before it are known."""
        return all(key in params and params[key] in values for key, values in self.when.items())


@dataclass(frozen=True)
class Objective:
    """What is sought.

    Attributes:
        metric: `eval/f1`, `samples_per_s`, … (`hpo.objectives` in the reference).
        bound: a trial whose value is worse is not feasible; null: none is.
    """

    metric: str
    direction: Direction
    bound: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A metric that is no objective, but has to keep a bound (both included)."""

    metric: str
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Trial:
    """One point of the space and what came of it: one run.

    Attributes:
        number: counts from 0.
        params: recipe key -> value, of the dimensions that exist at this point.
        values: metric -> value for every objective; empty unless it succeeded.
        run: its run folder.
        metrics: all that the run reported at its end, as `hpo.objectives` names them.
        feasible: keeps every bound and constraint.
        message: why it ended so; empty where it succeeded.
        attempts: how often its run was started.
        started_at, ended_at: Unix time in seconds, of the ask and of the end.
        repeat_of: the trial of the same point under the first seed; null for a point of its own.
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
    """Where a trial stands in a population; the fields are those of `Trial`."""

    member: int | None = None
    parent: int | None = None


@dataclass(frozen=True)
class Estimate:
    """A point that was run with several seeds (`hpo.repeats`).

    Attributes:
        number: of the point's first trial.
        shown: the first trial that succeeded, which stands for the point on the front.
        count: runs that succeeded.
        mean: metric -> mean over them.
        std: metric -> sample standard deviation; error: metric -> standard error of the mean. Both are empty
            for one run, which has no spread.
        enough: as many runs succeeded as `hpo.min_successes` asks for: the point can be on the front.
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
        front: numbers of the feasible trials that no other dominates, ascending. Of a point with
            repeats, the first that succeeded stands for their mean (`stands_for`).
        knee: the trial of the front nearest to the ideal point, each objective scaled to the front's range.
        chosen: the trial that the recipe's `hpo.choose` selects; null where it selects none.
        estimates: of each point with repeats.
        directions: metric -> which way is better, where it is known.
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
        """Of the point for which this trial stands."""
        return next((found for found in self.estimates if found.shown == number), None)

    def stands_for(self, number: int) -> Trial:
        """The trial with the values and metrics that count: of a point with repeats, the means."""
        trial, found = self.trials[number], self.estimate(number)
        if found is None:
            return trial
        values = {name: found.mean[name] for name in trial.values if name in found.mean}
        return replace(trial, values=values, metrics=found.mean)
