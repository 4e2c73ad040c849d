"""Optuna's samplers, and what each of them can express."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import optuna
from optuna.samplers import BaseSampler

from galley.errors import ConfigError, Problem
from hpo.backends.base import Search
from hpo.backends.grid import check_finite
from hpo.backends.optuna_constraints import with_constraints
from hpo.space.points import size_of

PACKAGES = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",)}
_LISTED = 1_000_000  # most values of one dimension: Optuna's Gaussian process makes an array of them
_POPULATION = 50  # largest population of a genetic algorithm; also at most a quarter of the trials


def check_sampler(search: Search) -> None:
    """Raise `ConfigError` for what the sampler would change silently, or draw without learning from it."""
    problems = list(_problems(search))
    if problems:
        raise ConfigError(problems)


def _problems(search: Search) -> Iterator[Problem]:
    """Yield what the sampler cannot express."""
    sampler = search.settings.sampler
    where = f"hpo.sampler={sampler}"
    missing = [name for name in PACKAGES.get(sampler or "", ()) if find_spec(name) is None]
    if missing:
        yield Problem(where, f"needs the package {missing[0]}", "pip install 'galley[optuna]'")

    if sampler == "cmaes":
        yield from _problems_of_cmaes(where, search)
    if sampler in ("cmaes", "gp"):
        conditional = [dim.key for dim in search.space if dim.when]
        if conditional:
            what = f"has no conditions, such as that of '{conditional[0]}'"
            yield Problem(where, what, "valid: tpe, nsga2, random")

    if sampler == "gp":
        large = [dim.key for dim in search.space if (size_of(dim) or 0) > _LISTED]
        if large:
            what = f"holds every value of a range in memory, of which '{large[0]}' has more than {_LISTED}"
            yield Problem(where, what, "valid: tpe, nsga2, random; or give the range a larger step")
    if sampler == "grid":
        check_finite(search.space)


def _problems_of_cmaes(where: str, search: Search) -> Iterator[Problem]:
    """Yield what CMA-ES cannot express."""
    if len(search.objectives) > 1:
        yield Problem(where, f"seeks one objective, not {len(search.objectives)}", "valid: tpe, nsga2, gp")
    choices = [dim.key for dim in search.space if dim.kind == "categorical"]
    if choices:
        yield Problem(where, f"has no choices, such as '{choices[0]}'", "valid: tpe, gp, random")
    if is_bounded(search):
        what = "does not learn from bounds and constraints, and would draw on where none is kept"
        yield Problem(where, what, "valid: tpe, nsga2, nsga3, gp, random")


def is_bounded(search: Search) -> bool:
    """Return whether a trial may succeed and yet be infeasible."""
    return bool(search.constraints) or any(objective.bound is not None for objective in search.objectives)


def make_sampler(search: Search, generator: random.Random) -> BaseSampler:
    """Return the sampler that `hpo.sampler` names, seeded for one draw; None is TPE, Optuna's own default.

    The points of a grid are given, not drawn: Optuna's own grid sampler ends only `Study.optimize`.
    """
    seed, sampler = generator.randrange(2**32), search.settings.sampler or "tpe"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler == "tpe":  # `constant_liar`: running points count as bad, so that parallel draws differ
            together = search.settings.parallel > 1 or search.settings.share
            return with_constraints(optuna.samplers.TPESampler, seed=seed, constant_liar=together)
        if sampler == "nsga2":
            return with_constraints(
                optuna.samplers.NSGAIISampler, seed=seed, population_size=population(search)
            )
        if sampler == "nsga3":
            return with_constraints(
                optuna.samplers.NSGAIIISampler, seed=seed, population_size=population(search)
            )
        if sampler == "gp":
            return with_constraints(optuna.samplers.GPSampler, seed=seed)
        if sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def population(search: Search) -> int:
    """Return a population of which a sweep sees at least four generations."""
    return max(2, min(_POPULATION, (search.settings.trials or 4 * _POPULATION) // 4))
