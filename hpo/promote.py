"""Write the winner of a study as a recipe: `python train.py recipe=NAME` is the same run again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import open_loader
from galley.config.keys import leaf_types
from galley.config.project import config_dir_option
from galley.errors import ConfigError, Problem
from galley.paths import RECIPES, command, is_checkout
from galley.rundir import RunFolder, write_atomic
from galley.schema import Hpo, Recipe
from galley.spec import Layout, RunResult
from galley.strategy.parameter_count import model_size
from galley.system.os_errors import writing
from hpo.display import describe_estimate
from hpo.population import lineage
from hpo.select import pareto_front
from hpo.space.points import same_point
from hpo.study.state import Study
from hpo.study.values import Trial

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_WRITTEN = ("recipe", "profile", "run_dir", "detach", "after")


@dataclass(frozen=True)
class Promoted:
    """What was written.

    Attributes:
        file: the recipe of the winner.
        commands: train it again, one after the other. Only a population needs more than one.
    """

    file: Path
    commands: tuple[str, ...]


def promote(study: Study, trial: Trial, name: str, config_dirs: Sequence[Path]) -> Promoted:
    """Write `recipes/NAME.yaml` into the first of the user's folders, else into the checkout.

    Guarantees that the file composes to what the trial was sealed with, except that the model is written,
    which the trials of a sweep may skip. The trial of a population is the last part of a training: each
    stretch of it that had its own parameters is a recipe, `NAME-1` and so on, the last one `NAME`. Raises
    `ConfigError`, and leaves nothing behind, if the file does not, or if a name is taken.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(Problem(f"--promote {name}", "is not a name", "letters, digits, '.', '_' and '-'"))

    folder = _recipes_folder(name, config_dirs)
    parts = stretches(lineage(study.trials, trial))
    names = [*(f"{name}-{number}" for number in range(1, len(parts))), name]
    files = [folder / f"{one}.yaml" for one in names]
    for file in files:
        if file.exists():
            raise ConfigError(Problem(str(file), "exists", "choose another name"))

    lines = commands(names, config_dirs)
    try:
        for part, file, line in zip(parts, files, lines, strict=True):
            _write(study, part, file, [line] if part != trial else [line, *lines[:-1]], config_dirs)
    except ConfigError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return Promoted(files[-1], tuple(lines))


def _recipes_folder(name: str, config_dirs: Sequence[Path]) -> Path:
    """Return the folder of recipes. Raises `ConfigError` if there is none to write into."""
    if not config_dirs and not is_checkout():
        what = "needs a folder of recipes of your own"
        hint = "give it with --config-dir DIR, or run the command in a project that `galley init DIR` makes"
        raise ConfigError(Problem(f"--promote {name}", what, hint))
    return config_dirs[0] / "recipes" if config_dirs else RECIPES


def stretches(line: Sequence[Trial]) -> list[Trial]:
    """Return the last trial of each stretch of a lineage whose parameters are the same."""
    following = [*line[1:], None]
    return [
        a for a, b in zip(line, following, strict=True) if b is None or not same_point(a.params, b.params)
    ]


def commands(names: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    """Return the commands. Each continues from the checkpoint with which the one before it ended."""
    option = config_dir_option(config_dirs[0]) if config_dirs else ""
    lines = []
    for number, name in enumerate(names):
        start = f" checkpoint.resume_from=runs/{names[number - 1]}" if number else ""
        folder = f" run_dir=runs/{name}" if number < len(names) - 1 else ""
        lines.append(f"{command()} {option}recipe={name}{start}{folder}")
    return lines


def _write(
    study: Study, trial: Trial, target: Path, lines: Sequence[str], config_dirs: Sequence[Path]
) -> None:
    """Write one recipe, and check that it composes to the trial's sealed recipe."""
    name = target.stem
    spec = RunFolder(Path(trial.run)).read_spec()
    wanted = replace(with_layout(spec.recipe, spec.layout), tracker=study.begun.recipe.tracker)
    wanted = with_size(wanted, RunFolder(Path(trial.run)).read_result())
    if trial.parent is not None:  # the checkpoint is in the study; the command names another one instead
        wanted = replace(wanted, checkpoint=replace(wanted.checkpoint, resume_from=None))

    with writing(str(target)):
        write_atomic(target, recipe_text(study, trial, lines, wanted, config_dirs))

    written = compose_recipe([f"recipe={name}"], config_dirs)
    same = replace(written, recipe=wanted.recipe, profile=wanted.profile)
    if same != wanted:
        target.unlink()
        differing = [key for key, value in leaves(asdict(same)) if dict(leaves(asdict(wanted)))[key] != value]
        what = f"trial {trial.number} cannot be written as a recipe: {', '.join(differing)} would differ"
        raise ConfigError(Problem(str(target), what, f"its sealed recipe is {trial.run}/run.json"))


def with_layout(recipe: Recipe, layout: Layout) -> Recipe:
    """Return the recipe with the ranks, threads and batch that its slot gave it, so that it needs no slot."""
    cluster = replace(
        recipe.cluster,
        procs_per_node=layout.procs_per_node,
        threads_per_proc=layout.threads_per_proc,
        device=layout.device,
    )
    batch = replace(
        recipe.batch,
        global_size=layout.global_size,
        micro_size=layout.micro_size,
        accumulation=layout.accumulation,
    )
    checkpoint = replace(recipe.checkpoint, model=True)
    return replace(recipe, cluster=cluster, batch=batch, checkpoint=checkpoint, hpo=Hpo())


def with_size(recipe: Recipe, result: RunResult | None) -> Recipe:
    """Return the recipe with the size that the run has counted, if nothing else determines it beforehand."""
    engaged = None if result is None else result.engaged
    if engaged is None or recipe.model.lora.active or model_size(recipe) is not None:
        return recipe
    return replace(recipe, model=replace(recipe.model, num_parameters=engaged.num_parameters))


def recipe_text(
    study: Study, trial: Trial, lines: Sequence[str], recipe: Recipe, config_dirs: Sequence[Path]
) -> str:
    """Return every value that is not the default of its key, and every key that a default option sets.

    At the top are the command that runs it, and those that must run before.
    """
    defaults, set_anyway = dict(leaves(asdict(Recipe()))), _keys_of_default_options(config_dirs)
    body: dict[str, Any] = {}
    for key, value in leaves(asdict(recipe)):
        is_written = value != defaults[key] or any(key == k or k.startswith(f"{key}.") for k in set_anyway)
        if is_written and key.split(".")[0] not in (*_NOT_WRITTEN, "hpo"):
            _put(body, key, value)
    reached = ", ".join(f"{metric} {value:.6g}" for metric, value in trial.values.items())
    head = [f"# {lines[0]}", "#", f"# Trial {trial.number} of the sweep {study.name}: {reached}."]
    estimate = pareto_front(study).estimate(trial.number)
    if estimate is not None:
        head.append(f"# Of its point: {describe_estimate(estimate, [*trial.values])}.")
    if lines[1:]:
        head += ["# Its weights come from:", *(f"#   {line}" for line in lines[1:])]

    text = yaml.safe_dump(json.loads(json.dumps(body)), sort_keys=False, allow_unicode=True)
    return "\n".join([*head, text])


def _keys_of_default_options(config_dirs: Sequence[Path]) -> set[str]:
    """Return the keys that the default options of the configuration set."""
    with open_loader(config_dirs) as loader:
        return {source.key for source in loader.sources([])}


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of every key of the recipe."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in leaf_types():
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def _put(body: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        body = body.setdefault(parent, {})
    body[last] = list(value) if isinstance(value, tuple) else value
