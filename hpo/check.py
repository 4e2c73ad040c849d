"""Find what is wrong with a sweep before anything is written or started."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import Composed
from galley.config.rules.recipe import evaluates_during
from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.paths import command
from galley.schema import Hpo, Pbt, Recipe
from hpo.objectives import VISIBLE, is_visible, read_objectives
from hpo.population import population_problems
from hpo.pruning.rungs import rungs
from hpo.space.dimensions import read_space
from hpo.space.known_points import read_known_points
from hpo.space.points import config_groups, count_points, draw, point_words, size_of
from hpo.study.values import Constraint, Objective, Params, SpaceDim
from launchers import make_launcher

_TRIES = 24  # random points that may show that a value works together with others


def sweep_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem that the recipe itself shows."""
    if recipe.hpo.kind == "wandb":
        what = "is run by W&B's agents: Galley writes it down for them, and has nothing to plan or to run"
        return [Problem("hpo=wandb", what, f"{command()} sweep hpo=wandb …")]
    problems: list[Problem] = []
    space: tuple[SpaceDim, ...] = ()
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    try:
        space = read_space(recipe.hpo.space)
    except ConfigError as error:
        problems += error.problems
    else:
        problems += [*_size_problems(recipe, space), *_known_problems(recipe, space)]
    try:
        objectives, constraints = read_objectives(recipe)
    except ConfigError as error:
        problems += error.problems

    problems += [*_backend_problems(recipe), *_array_problems(recipe)]
    problems += population_problems(recipe, space, objectives)
    return [*problems, *_pruning_problems(recipe, objectives, constraints)]


def _backend_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield settings that the backend lacks, and contradictions between settings."""
    hpo = recipe.hpo
    for name in ("sampler", "storage"):
        if getattr(hpo, name) is not None and hpo.kind != "optuna":
            yield Problem(f"hpo.{name}", f"means nothing to hpo={hpo.kind}", "choose hpo=optuna, or drop it")
    if hpo.pbt != Pbt() and hpo.kind != "pbt":
        yield Problem("hpo.pbt", f"means nothing to hpo={hpo.kind}", "choose hpo=pbt, or drop it")
    if hpo.repeats > 1 and (hpo.trials or 0) % hpo.repeats:
        what = (
            f"{counted(hpo.trials or 0, 'trial')}: no whole number of points with {hpo.repeats} repeats each"
        )
        yield Problem("hpo.trials", what, "a multiple of hpo.repeats: repeats are trials")
    if hpo.min_successes is not None and hpo.min_successes > hpo.repeats:
        what = f"{hpo.min_successes} of {counted(hpo.repeats, 'run')} of a point cannot succeed"
        yield Problem("hpo.min_successes", what, f"at most hpo.repeats={hpo.repeats}")
    if hpo.max_memory_gib is not None and not _has_size(recipe):
        what = "cannot be kept: the model's size is not known"
        yield Problem("hpo.max_memory_gib", what, "set model.num_parameters=N")


def _array_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what a job array cannot do."""
    hpo = recipe.hpo
    if not hpo.array:
        return
    if make_launcher(recipe.launcher.kind).arrays() is None:
        what = f"means nothing to launcher={recipe.launcher.kind}"
        yield Problem("hpo.array", what, "choose launcher=slurm, or hpo.array=false: a job a trial")
    if hpo.kind not in ("grid", "random"):
        what = f"asks for all points at once, but hpo={hpo.kind} learns from each trial"
        yield Problem("hpo.array", what, "valid with hpo=grid and hpo=random")
    if hpo.share:
        yield Problem("hpo.array", "is one controller's", "drop hpo.share or hpo.array")


def _has_size(recipe: Recipe) -> bool:
    from galley.strategy.estimate import num_parameters

    return num_parameters(recipe) is not None


def _size_problems(recipe: Recipe, space: Sequence[SpaceDim]) -> Iterator[Problem]:
    """Yield problems of the space and of the number of trials."""
    hpo = recipe.hpo
    if not space:
        hint = "hpo.space, or KEY='interval(LOW, HIGH)' and KEY=A,B on the command line"
        yield Problem("hpo.space", "is empty: there is nothing to search", hint)
    if hpo.repeats > 1 and any(dim.key == "seed" for dim in space):
        yield Problem("hpo.repeats", "and the dimension 'seed' both choose seeds", "keep one of them")

    if hpo.trials is None:
        if hpo.kind != "grid":
            yield Problem("hpo.trials", f"null is for hpo=grid, not for hpo={hpo.kind}", "a number of trials")
        return

    is_grid = "grid" in (hpo.kind, hpo.sampler)
    if is_grid and space and all(size_of(dim) is not None for dim in space):
        size = count_points(space, -(-hpo.trials // hpo.repeats))
        if hpo.trials > size * hpo.repeats:
            all_of_them = ", or hpo.trials=null for all" if hpo.kind == "grid" else ""
            what = f"{counted(hpo.trials, 'trial')}, but the grid has {counted(size, 'point')}"
            yield Problem("hpo.trials", what, f"at most {size * hpo.repeats}{all_of_them}")


def _known_problems(recipe: Recipe, space: Sequence[SpaceDim]) -> Iterator[Problem]:
    """Yield what is wrong with the points that are tried first."""
    hpo = recipe.hpo
    if hpo.points is None:
        return
    if hpo.kind == "pbt":
        yield Problem("hpo.points", "means nothing to hpo=pbt, whose members draw their own", "drop it")
        return
    try:
        points = read_known_points(hpo.points, space)
    except ConfigError as error:
        yield from error.problems
        return
    if hpo.trials is not None and len(points) * hpo.repeats > hpo.trials:
        what = f"has {counted(len(points), 'point')}, more than hpo.trials={hpo.trials} can try"
        yield Problem(f"hpo.points={hpo.points}", what, f"hpo.trials={len(points) * hpo.repeats}, or more")


def check_known_points(points: Sequence[Params], compose: Callable[[Params], Any]) -> None:
    """Compose each point. Raises `ConfigError` with the problems of all that are no recipe."""
    problems: list[Problem] = []
    for number, params in enumerate(points):
        try:
            compose(params)
        except ConfigError as error:
            problems += [
                Problem(f"hpo.points: point {number}", f"{found.where}: {found.what}", found.hint)
                for found in error.problems
            ]
    if problems:
        raise ConfigError(problems)


def _pruning_problems(
    recipe: Recipe, objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Iterator[Problem]:
    """Yield reasons why pruning could not work, or would never act."""
    kind = recipe.hpo.pruning.kind
    if kind == "none":
        return
    where = f"hpo.pruning.kind={kind}"
    if kind != "pareto" and len(objectives) > 1:
        yield Problem(where, f"judges one objective, but there are {len(objectives)}", "valid: pareto, none")

    hidden = [o.metric for o in objectives if not is_visible(o.metric)]
    if hidden:
        what = f"cannot see '{hidden[0]}' while a trial runs"
        yield Problem(where, what, f"valid: eval/…, {', '.join(VISIBLE)}; or hpo.pruning.kind=none")
    seen = [*(o.metric for o in objectives), *(c.metric for c in constraints)]
    if not evaluates_during(recipe) and any(name.startswith("eval/") for name in seen):
        yield Problem(
            where, "needs evaluations during the run", "set eval.every_steps=N or eval.every_epochs=N"
        )
    elif only_at_the_end(recipe, any(name.startswith("eval/") for name in seen)):
        what = "never acts: the first report of a trial comes with its end"
        yield Problem(
            where, what, "more often: eval.every_steps=N, eval.every_epochs=N, train.log_every_steps=N"
        )

    least, rivals = recipe.hpo.pruning.min_trials, largest_bracket(recipe.hpo)
    if rivals is not None and rivals < least:
        there = (
            f"there {'is' if rivals == 1 else 'are'} {rivals}{' in a bracket' if kind == 'hyperband' else ''}"
        )
        what = f"never acts: it waits for {counted(least, 'trial')}, and {there}"
        yield Problem("hpo.pruning.min_trials", what, f"at most {rivals}, or hpo.pruning.kind=none")


def largest_bracket(hpo: Hpo) -> int | None:
    """Return how many trials are compared with each other at most; None if their number is unknown."""
    if hpo.trials is None or hpo.pruning.kind != "hyperband":
        return hpo.trials
    return -(-hpo.trials // len(rungs(hpo.pruning.min_fraction, hpo.pruning.eta)))


def only_at_the_end(recipe: Recipe, evaluated: bool) -> bool:
    """Return whether a trial reports no objective before its last step, as far as the recipe shows."""
    train, settings = recipe.train, recipe.eval
    if evaluated and settings.every_epochs is not None:
        return train.max_steps is None and settings.every_epochs >= train.epochs
    every = settings.every_steps if evaluated else train.log_every_steps
    return train.max_steps is not None and every is not None and every >= train.max_steps


def trial_problems(
    recipe: Recipe,
    words: Sequence[str],
    config_dirs: Sequence[Path],
    problems_of: Callable[[Recipe], list[Problem]],
) -> list[Problem]:
    """Return what `problems_of` finds in a sweep's recipe; nothing if some point of its space has no problem.

    A dimension may choose what the recipe lacks: other ranks, another batch, another strategy.
    """
    try:
        space = read_space(recipe.hpo.space)
    except ConfigError:
        return problems_of(recipe)
    groups, composed = config_groups(list(map(str, config_dirs))), Composed()
    first: list[Problem] = []
    for params in _some_points(space):
        try:
            point = compose_recipe(point_words(words, params, groups), config_dirs, composed=composed)
        except ConfigError:  # `check_points` tells which values never compose
            continue
        problems = problems_of(point)
        if not problems:
            return []
        first = first or problems
    return problems_of(recipe) or [Problem(f"hpo.space: {one.where}", one.what, one.hint) for one in first]


def _some_points(space: Sequence[SpaceDim]) -> Iterator[Params]:
    """Random points, and one for each choice and each end of a range."""
    generator, by_key = random.Random(0), {dim.key: dim for dim in space}
    for dim in space:
        for value in dim.choices if dim.kind == "categorical" else dim.bounds:
            params = {**draw(space, generator), **_with_parents(dim, by_key), dim.key: value}
            yield {key: v for key, v in params.items() if by_key[key].is_active(params)}
    yield from (draw(space, generator) for _ in range(_TRIES))


def check_points(space: Sequence[SpaceDim], compose: Callable[[Params], Any], seed: int) -> None:
    """Compose every choice, and both ends of every range, on top of the recipe.

    A value that breaks a rule between keys passes if some point of the space holds it and composes.
    Raises `ConfigError` with the problems of all values that never do.
    """
    problems: list[Problem] = []
    for dim in space:
        values = dim.choices if dim.kind == "categorical" else tuple(dict.fromkeys(dim.bounds))
        for value in values:
            value_problems = _problems_of(dim, value, space, compose, seed)
            problems += [_named(dim, problem) for problem in value_problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _problems_of(
    dim: SpaceDim, value: Any, space: Sequence[SpaceDim], compose: Callable[[Params], Any], seed: int
) -> Sequence[Problem]:
    """Return why no point with this value composes; empty if one does."""
    generator = random.Random(f"{seed}-{dim.key}-{value}")
    by_key = {other.key: other for other in space}
    alone = _with_parents(dim, by_key)
    candidates = [{**alone, dim.key: value}]
    candidates += [{**draw(space, generator), **alone, dim.key: value} for _ in range(_TRIES)]

    first: Sequence[Problem] = ()
    for params in candidates:
        try:
            compose({key: v for key, v in params.items() if by_key[key].is_active(params)})
        except ConfigError as error:
            first = first or error.problems
            if _is_of_key(dim, error.problems):
                return error.problems
        else:
            return ()
    return first


def _with_parents(dim: SpaceDim, by_key: dict[str, SpaceDim]) -> Params:
    """Return values of the dimensions on which this one depends, such that it exists."""
    params: Params = {}
    for key, values in dim.when.items():
        params |= {**_with_parents(by_key[key], by_key), key: values[0]}
    return params


def _is_of_key(dim: SpaceDim, problems: Sequence[Problem]) -> bool:
    """Return whether the key or the value itself is wrong, whatever the other values are."""
    words = ("is not a key", "is not a valid value", f"is not a {dim.key}", "is a section", "cannot be read")
    return any(word in f"{problem.what} {problem.hint}" for problem in problems for word in words)


def _named(dim: SpaceDim, problem: Problem) -> Problem:
    return Problem(f"hpo.space.{dim.key}", f"{problem.where}: {problem.what}", problem.hint)
