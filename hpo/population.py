"""Populations (`hpo=pbt`): each trial is one interval of a member's training, and a run of its own.

It starts from the checkpoint with which another trial ended, with parameters that may differ. The k-th
trial of any member trains from the end of interval k-1 to the end of interval k, so that trials of one
interval differ only in their parameters and in the origin of their weights.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from galley.errors import Problem
from galley.rundir import RunFolder, checkpoint_name
from galley.schema import Hpo, Recipe
from galley.tasks import built_in_tasks, task_of
from hpo.study.state import Study
from hpo.study.values import ENDED, Objective, Params, SpaceDim, Trial

SEARCHED = ("optim.", "schedule.", "model.dropout", "model.lora.dropout")
"""Keys that may differ between a run and the one from whose checkpoint it starts, whatever the task. Both
have one model, one order of the data and one global batch. Tasks add keys of their own."""

ANOTHER_STATE = ("optim.kind", "optim.momentum")
"""Keys under which the optimizer keeps other state."""


def intervals(hpo: Hpo) -> int:
    """Return the number of intervals of each member."""
    return (hpo.trials or 0) // hpo.pbt.population


def interval_end(recipe: Recipe, index: int) -> int:
    """Return the optimizer step at which interval `index` ends."""
    last, steps = recipe.train.max_steps or 0, recipe.hpo.pbt.perturbation_interval
    if steps is not None:
        return min(last, steps * (index + 1))
    return last * (index + 1) // intervals(recipe.hpo)


def interval_numbers(trials: Sequence[Trial]) -> list[int]:
    """Return for each trial of a population which interval of its member it is, from 0."""
    counted: Counter[int | None] = Counter()
    numbers = []
    for trial in trials:
        numbers.append(counted[trial.member])
        counted[trial.member] += 1
    return numbers


def lineage(trials: Sequence[Trial], trial: Trial) -> list[Trial]:
    """Return the trials that trained the weights one after the other; the last is the trial itself."""
    line = [trial]
    while line[0].parent is not None:
        line.insert(0, trials[line[0].parent])
    return line


def birth(study: Study, trial: Trial) -> Params:
    """Return the recipe's keys that make a trial an interval of its member; none without a population."""
    if trial.member is None:
        return {}
    recipe, index = study.begun.recipe, interval_numbers(study.trials)[trial.number]
    keys: Params = {"train.stop_at_step": interval_end(recipe, index)}
    if trial.parent is not None:
        parent = RunFolder(Path(study.trials[trial.parent].run))
        keys["checkpoint.resume_from"] = str(
            parent.checkpoints / checkpoint_name(interval_end(recipe, index - 1))
        )
    return keys


def drop_spent(study: Study) -> None:
    """Remove the checkpoints from which no trial can start any more.

    Those are the checkpoints of an interval if every member has ended the next one, too. Those of the last
    interval stay.
    """
    population = [trial for trial in study.trials if trial.member is not None]
    placed = list(zip(population, interval_numbers(population), strict=True))
    ended = Counter(index for trial, index in placed if trial.state in ENDED)
    for trial, index in placed:
        if ended[index + 1] == study.hpo.pbt.population:
            shutil.rmtree(RunFolder(Path(trial.run)).checkpoints, ignore_errors=True)


def died_out(study: Study) -> str:
    """Return why there are fewer trials than requested; empty if there are not."""
    if len(study.trials) == study.target or not study.trials or study.trials[0].member is None:
        return ""
    failed = [trial for trial in study.trials if trial.state != "succeeded"]
    last = max(failed, key=lambda trial: trial.ended_at or 0.0)
    return (
        f"the population has died out after {len(study.trials)} of {study.target} trials: no member has "
        f"weights to go on from; the last that failed, trial {last.number}: {last.message}"
    )


def population_problems(
    recipe: Recipe, space: Sequence[SpaceDim], objectives: Sequence[Objective]
) -> Iterator[Problem]:
    """Yield why the recipe is no population."""
    if recipe.hpo.kind != "pbt":
        return
    yield from _size_problems(recipe)
    if len(objectives) > 1:
        what = f"a population is ordered by one objective, but there are {len(objectives)}"
        yield Problem("hpo.objectives", what, "choose hpo=optuna for a front, or keep one of them")
    searched = searched_keys(recipe)
    for dim in space:
        if not dim.key.startswith(searched) or dim.key in ANOTHER_STATE:
            what = "cannot change within a training: a checkpoint does not go on under another value"
            yield Problem(f"hpo.space.{dim.key}", what, f"valid: {', '.join(searched)}")
    yield from _own_problems(recipe)


def searched_keys(recipe: Recipe) -> tuple[str, ...]:
    """Keys, and beginnings of keys, that a population may search."""
    tasks = (*built_in_tasks(), task_of(recipe))
    return (*SEARCHED, *sorted({key for task in tasks for key in task.searched}))


def _size_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield problems of the numbers of members, trials and steps."""
    hpo, last = recipe.hpo, recipe.train.max_steps
    members, steps = hpo.pbt.population, hpo.pbt.perturbation_interval
    if last is None:
        yield Problem("train.max_steps", "is null: a population needs its last step", "train.max_steps=N")
        return
    if hpo.trials is None:
        return  # only `hpo=grid` allows null; another check reports it
    if steps is not None:
        needed = members * -(-last // steps)
        if hpo.trials != needed:
            what = f"{hpo.trials} trials, but {members} members of {needed // members} intervals are {needed}"
            yield Problem("hpo.trials", what, f"hpo.trials={needed}, or hpo.pbt.perturbation_interval=null")
    elif hpo.trials % members or not 0 < intervals(hpo) <= last:
        what = f"{hpo.trials} trials are no whole number of intervals for each of {members} members"
        hint = f"a multiple of hpo.pbt.population, at most {members * last}: an interval has a step or more"
        yield Problem("hpo.trials", what, hint)


def _own_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield settings that the population makes itself, or that would end an interval too early."""
    hpo, train, source = recipe.hpo, recipe.train, recipe.checkpoint.resume_from
    refused = (
        ("hpo.repeats", hpo.repeats > 1, "changes the seed, under which no checkpoint goes on", "1"),
        ("hpo.pruning.kind", hpo.pruning.kind != "none", "would end what the population replaces", "none"),
        ("eval.patience", recipe.eval.patience is not None, "would end a member within an interval", "null"),
        (
            "checkpoint.keep_best",
            recipe.checkpoint.keep_best is not None,
            "would judge an interval by other weights than its last, with which the next begins",
            "null",
        ),
        ("eval.only", recipe.eval.only, "trains nothing", "false"),
        ("train.stop_at_step", train.stop_at_step is not None, "is set for each interval", "null"),
        ("checkpoint.resume_from", source is not None, "is set for each interval", "null"),
    )
    for key, is_set, what, valid in refused:
        if is_set:
            yield Problem(key, what, f"valid with hpo=pbt: {valid}")
