"""`hpo=ray`: Ray Tune's OptunaSearch draws the points; Galley's controller runs the trials.

Tune's searcher is asked and told through its own interface, without a Ray cluster: a trial is a launched
run like any other, with all its ranks, and the journal is the only state. A searcher is made again from
it by letting it suggest the points of the journal in their order.
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
    """TPE, for one objective or several, over conditional spaces too (define-by-run)."""

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
        told = [t for _, t in sorted(self._ended.items()) if t.state == "succeeded" and t.feasible]
        points = [pareto.losses(trial.values, self.search.objectives) for trial in told]
        return tuple(told[index].number for index in pareto.front(points))

    def _replay(self) -> OptunaSearch:
        """A searcher that has suggested all points so far, and knows the ends of those that ended.

        Its seed depends on how many there are: one that is made after a restart draws no point again.
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
        """The space as Tune's define-by-run function: a dimension is drawn where it exists."""

        def draw(trial: Any) -> None:
            params: Params = {}
            for key, dim in self._dims.items():
                if dim.is_active(params):
                    params[key] = decode(dim, _draw(trial, key, self._distributions[key]))

        return draw

    def _suggest(self, searcher: OptunaSearch, number: int) -> Params:
        drawn = searcher.suggest(str(number)) or {}
        return {key: decode(dim, drawn[key]) for key, dim in self._dims.items() if key in drawn}

    @staticmethod
    def _complete(searcher: OptunaSearch, trial: Trial) -> None:
        """Values; or none, of a pruned trial; or an error, of one that failed or was not feasible."""
        error = trial.state in ("failed", "infeasible")
        searcher.on_trial_complete(str(trial.number), result=trial.values or None, error=error)


def _draw(trial: Any, key: str, found: optuna.distributions.BaseDistribution) -> Any:
    """By the public calls, which are what Tune records."""
    if isinstance(found, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(key, found.choices)
    if isinstance(found, optuna.distributions.IntDistribution):
        return trial.suggest_int(key, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, optuna.distributions.FloatDistribution)  # noqa: S101
    return trial.suggest_float(key, found.low, found.high, step=found.step, log=found.log)
