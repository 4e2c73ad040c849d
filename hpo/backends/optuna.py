"""`hpo=optuna`: Optuna draws the points, by ask and tell.

The study's journal is the truth, and Optuna's storage follows it: trial N here is trial N there. If a
killed controller created a trial there that the journal lacks, the next ask takes it over. An
end that was not told is told at the start. A storage that is gone is filled again from the journal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from galley.errors import ConfigError
from galley.rundir import RunFolder
from galley.urls import resolved
from hpo.backends.base import HpoBackend, Search
from hpo.backends.optuna_constraints import state_constraints
from hpo.backends.optuna_samplers import check_sampler, make_sampler
from hpo.backends.optuna_storage import answered, close_storage, open_storage
from hpo.backends.optuna_study import foreign, open_study, refuse_foreign
from hpo.objectives import excesses
from hpo.space.points import Grid, same_point
from hpo.study.values import ENDED, Params, SpaceDim, Trial

STATES = {
    "succeeded": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,  # with a violated constraint, from which the samplers learn
    "failed": TrialState.FAIL,
}
INFEASIBLE = "not feasible"


class OptunaBackend(HpoBackend):
    """One Optuna study, which optuna-dashboard shows like any other."""

    name = "optuna"

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        self.search = search
        self._dims = {dim.key: dim for dim in search.space}
        self._distributions = {dim.key: distribution(dim) for dim in search.space}
        check_sampler(search)
        self._grid = Grid(search.space, search.points) if search.settings.sampler == "grid" else None
        self._url = url = storage_url(search.settings.storage)

        if search.dry:
            if url is not None:
                refuse_foreign(search, url)
            return

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._where = "hpo.storage" if url is not None else str(search.folder / "optuna.log")
        self._storage = open_storage(url, search.folder)
        with answered(self._where, self._url):
            self._study = open_study(search, self._storage, self._where)
            self._reconcile(trials)

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        """Draw a point. Each draw has a sampler with its own seed: no draw is repeated after a restart."""
        with answered(self._where, self._url):
            return self._draw(number, fixed)

    def _draw(self, number: int, fixed: Params | None) -> Params | None:
        """Draw a point, or record the fixed one."""
        if fixed is not None and self._has(number, fixed):
            return fixed
        if fixed is None and self._grid is not None:
            fixed = self._grid.point(number // self.search.settings.repeats)
            if fixed is None:
                return None
        self._study.sampler = make_sampler(self.search, random.Random(f"{self.search.seed}-{number}"))
        trial = self._take(number, fixed)
        self._refuse_outside(trial)
        params: Params = {}
        for key, dim in self._dims.items():
            if dim.is_active(params):
                params[key] = decode(dim, trial._suggest(key, self._distributions[key]))
        return params

    def _refuse_outside(self, trial: optuna.Trial) -> None:
        """Raise `ConfigError` if somebody else, such as a dashboard, gave values that the space lacks."""
        for key, value in {**trial._fixed_params, **trial.params}.items():
            known = self._distributions.get(key)
            if known is not None and not _holds(known, value):
                raise self._foreign(f"its trial {trial.number} has {key}={value}, which is not in the space")

    def tell(self, trial: Trial) -> None:
        with answered(self._where, self._url):
            self._tell(trial)

    def close(self) -> None:
        if not self.search.dry:
            close_storage(self._storage)

    def _tell(self, trial: Trial) -> None:
        """Write the end of a trial into the storage, once."""
        stored = self._stored()[trial.number]
        if stored.state.is_finished() or trial.state not in ENDED:
            return
        live = optuna.Trial(self._study, stored._trial_id)
        for name, value in (("run", trial.run), ("state", trial.state), ("message", trial.message)):
            live.set_user_attr(name, value)
        self._report(live, trial)
        state_constraints(live, self._violations(trial))
        values = [trial.values[o.metric] for o in self.search.objectives] if trial.values else None
        self._study.tell(trial.number, values, STATES[trial.state])

    def best(self) -> tuple[int, ...]:
        with answered(self._where, self._url):
            return tuple(sorted(trial.number for trial in self._study.best_trials))

    def _violations(self, trial: Trial) -> dict[str, float]:
        """Return constraint -> excess. Every trial that ended with values states all of them."""
        if trial.state == "infeasible":
            return {INFEASIBLE: 1.0}
        if trial.state != "succeeded":
            return {}
        return excesses(trial.metrics, self.search.objectives, self.search.constraints)

    def _report(self, live: optuna.Trial, trial: Trial) -> None:
        """Report the learning curve, for the dashboard. Optuna has none for several objectives."""
        if len(self.search.objectives) > 1 or not trial.run:
            return
        metric = self.search.objectives[0].metric
        for row in RunFolder(Path(trial.run)).read_metrics():
            if row.get(metric) is not None:
                live.report(float(row[metric]), int(row["step"]))

    def _stored(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _has(self, number: int, params: Params) -> bool:
        """Return whether the storage has this trial already: another controller shares it."""
        stored = self._stored()
        return number < len(stored) and same_point(self._params(stored[number]), params)

    def _take(self, number: int, fixed: Params | None) -> optuna.Trial:
        """Return trial `number` of the storage: created, or taken over if a killed controller left it."""
        stored = self._stored()
        if len(stored) == number:
            if fixed is not None:
                self._study.enqueue_trial({key: encode(self._dims[key], fixed[key]) for key in fixed})
            return self._study.ask()
        left = stored[number]
        return (
            self._study.ask()
            if left.state == TrialState.WAITING
            else optuna.Trial(self._study, left._trial_id)
        )

    def _reconcile(self, trials: Sequence[Trial]) -> None:
        """Bring the storage to the state of the journal.

        Raises `ConfigError` if it belongs to another study.
        """
        stored = self._stored()
        if len(stored) > len(trials) + 1:
            raise self._foreign(f"it has {len(stored)} trials, the journal {len(trials)}")
        for trial in trials:
            there = stored[trial.number] if trial.number < len(stored) else None
            if there is None:
                self._study.add_trial(self._frozen(trial))
            elif not same_point(self._params(there), trial.params):
                raise self._foreign(f"its trial {trial.number} has other parameters")
            if (
                there is None or not there.state.is_finished()
            ):  # each costs a query: only for unfinished trials
                self._tell(trial)

    def _foreign(self, what: str) -> ConfigError:
        return foreign(self.search, self._where, what)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        """Return a trial of the journal as a running trial of Optuna."""
        return create_trial(
            state=TrialState.RUNNING,
            params={key: encode(self._dims[key], value) for key, value in trial.params.items()},
            distributions={key: self._distributions[key] for key in trial.params},
        )

    def _params(self, stored: FrozenTrial) -> Params:
        return {
            key: decode(self._dims[key], value) for key, value in stored.params.items() if key in self._dims
        }


def distribution(dim: SpaceDim) -> BaseDistribution:
    """Return a dimension as Optuna's distribution. Nothing changes: reading the space refused what would."""
    low, high = dim.bounds
    if dim.kind == "categorical":
        return CategoricalDistribution([encode(dim, choice) for choice in dim.choices])
    if dim.kind == "int":
        return IntDistribution(int(low), int(high), log=dim.log, step=int(dim.step or 1))
    return FloatDistribution(low, high, log=dim.log, step=dim.step)


def _holds(known: BaseDistribution, value: Any) -> bool:
    """Return whether the value is one of the distribution's."""
    try:
        return known._contains(known.to_internal_repr(value))
    except ValueError:
        return False


def encode(dim: SpaceDim, value: Any) -> Any:
    """Return a choice in Optuna's form: a list, or 1 beside true, as its JSON."""
    return value if dim.kind != "categorical" or _are_plain(dim.choices) else json.dumps(value)


def decode(dim: SpaceDim, value: Any) -> Any:
    """Return the choice: the inverse of `encode`."""
    return value if dim.kind != "categorical" or _are_plain(dim.choices) else json.loads(value)


def _are_plain(choices: Sequence[Any]) -> bool:
    """Return whether Optuna can distinguish the choices by `==`."""
    plain = all(choice is None or isinstance(choice, bool | int | float | str) for choice in choices)
    return plain and len(set(choices)) == len(choices)


def storage_url(storage: str | None) -> str | None:
    """Return the URL, see `galley.urls.resolved`; None is the file in the study's folder."""
    return None if storage is None else resolved("hpo.storage", storage)
