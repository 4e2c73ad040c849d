"""`hpo=ray`: Ray Tune's OptunaSearch draws the points; Galley's controller runs the trials.

Tune's searcher is used through its own interface, without a Ray cluster: a trial is a launched
run like any other, with all its ranks, and the journal is the only state. To restore a searcher from
the journal, a new one suggests the journal's points in their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from galley.errors import ConfigError, Problem
from hpo import pareto
from hpo.backends.base import HpoBackend, Search
from hpo.backends.optuna import decode, distribution, encode
from hpo.backends.optuna_samplers import is_bounded
from hpo.study.values import ENDED, Params, Trial


class RayBackend(HpoBackend):
    """TPE, for one objective or several, also over conditional spaces (define-by-run)."""

    name = "ray"

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        if is_bounded(search):
            what = "cannot tell bounds and constraints to Ray Tune's searcher"
            raise ConfigError(Problem("hpo=ray", what, "choose hpo=optuna, which learns from them"))
        self.search = search
        self._dims = {dim.key: dim for dim in search.space}
        self._distributions = {dim.key: distribution(dim) for dim in search.space}
        self._points = [trial.params for trial in trials]
        self._ended = {trial.number: trial for trial in trials if trial.state in ENDED}
        if not search.dry:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._searcher = self._replay()

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        if fixed is not None:
            self._points.append(fixed)
            self._searcher = self._replay()
            return fixed
        self._points.append(self._suggest(self._searcher, number))
        return self._points[-1]

    def tell(self, trial: Trial) -> None:
        if trial.state in ENDED and trial.number not in self._ended:
            self._ended[trial.number] = trial
            self._complete(self._searcher, trial)

    def best(self) -> tuple[int, ...]:
        succeeded = [t for _, t in sorted(self._ended.items()) if t.state == "succeeded" and t.feasible]
        points = [pareto.losses(trial.values, self.search.objectives) for trial in succeeded]
        return tuple(succeeded[index].number for index in pareto.front(points))

    def _replay(self) -> OptunaSearch:
        """Return a searcher that has suggested all points so far, and knows the ends of the ended trials.

        Its seed depends on the number of points: a searcher made after a restart repeats no draw.
        """
        objectives = self.search.objectives
        points = [
            {key: encode(self._dims[key], value) for key, value in point.items()} for point in self._points
        ]
        several = len(objectives) > 1
        metrics = [objective.metric for objective in objectives]
        modes = [objective.direction.removesuffix("imize") for objective in objectives]

        searcher = OptunaSearch(
            self._define(),
            metric=metrics if several else metrics[0],
            mode=modes if several else modes[0],
            points_to_evaluate=points,
            seed=random.Random(f"{self.search.seed}-{len(points)}").getrandbits(31),
        )

        for number in range(len(points)):
            self._suggest(searcher, number)
            if number in self._ended:
                self._complete(searcher, self._ended[number])
        return searcher

    def _define(self) -> Callable[[Any], None]:
        """Return the space as Tune's define-by-run function: a dimension is drawn if it exists."""

        def draw(trial: Any) -> None:
            params: Params = {}
            for key, dim in self._dims.items():
                if dim.is_active(params):
                    params[key] = decode(dim, _draw(trial, key, self._distributions[key]))

        return draw

    def _suggest(self, searcher: OptunaSearch, number: int) -> Params:
        """Let the searcher suggest the point of a trial."""
        drawn = searcher.suggest(str(number)) or {}
        return {key: decode(dim, drawn[key]) for key, dim in self._dims.items() if key in drawn}

    @staticmethod
    def _complete(searcher: OptunaSearch, trial: Trial) -> None:
        """Tell the searcher the end of a trial.

        With values; without, if it was pruned; as an error, if it failed or was infeasible.
        """
        error = trial.state in ("failed", "infeasible")
        searcher.on_trial_complete(str(trial.number), result=trial.values or None, error=error)


def _draw(trial: Any, key: str, dimension: optuna.distributions.BaseDistribution) -> Any:
    """Draw by the public calls, which are what Tune records."""
    if isinstance(dimension, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(key, dimension.choices)
    if isinstance(dimension, optuna.distributions.IntDistribution):
        return trial.suggest_int(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    assert isinstance(dimension, optuna.distributions.FloatDistribution)  # noqa: S101
    return trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
