"""The winner of a study as a recipe: `python train.py recipe=NAME` is the same run again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from galley.compose import compose_recipe
from galley.errors import ConfigError, Problem
from galley.hydra_bridge import open_loader
from galley.keys import leaf_types
from galley.paths import RECIPES
from galley.rundir import RunFolder, write_atomic
from galley.schema import Hpo, Recipe
from galley.spec import Layout
from hpo.study import Study
from hpo.values import Trial

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_WRITTEN = ("recipe", "profile", "run_dir", "detach", "after")


def promote(study: Study, trial: Trial, name: str, config_dirs: Sequence[Path]) -> Path:
    """Write `recipes/NAME.yaml` into the first of the user's folders, else into the checkout.

    Guarantees that the file composes to what the trial was sealed with, but that the model is written, which
    a sweep's trials may be spared. Raises `ConfigError`, and leaves
    nothing behind, where it does not, or where the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(Problem(f"--promote {name}", "is not a name", "letters, digits, '.', '_' and '-'"))
    folder = config_dirs[0] / "recipes" if config_dirs else RECIPES
    target = folder / f"{name}.yaml"
    if target.exists():
        raise ConfigError(Problem(str(target), "exists", "choose another name"))
    spec = RunFolder(Path(trial.run)).read_spec()
    wanted = with_layout(spec.recipe, spec.layout)
    write_atomic(target, recipe_text(study, trial, name, wanted, config_dirs))
    written = compose_recipe([f"recipe={name}"], config_dirs)
    same = replace(written, recipe=wanted.recipe, profile=wanted.profile)
    if same != wanted:
        target.unlink()
        differing = [key for key, value in leaves(asdict(same)) if dict(leaves(asdict(wanted)))[key] != value]
        what = f"trial {trial.number} cannot be written as a recipe: {', '.join(differing)} would differ"
        raise ConfigError(Problem(str(target), what, f"its sealed recipe is {trial.run}/run.json"))
    return target


def with_layout(recipe: Recipe, layout: Layout) -> Recipe:
    """The recipe with the ranks, threads and batch that its slot gave it, so that it needs no slot."""
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


def recipe_text(study: Study, trial: Trial, name: str, recipe: Recipe, config_dirs: Sequence[Path]) -> str:
    """Every value that is not the default of its key, and every key that a default option sets."""
    defaults, set_anyway = dict(leaves(asdict(Recipe()))), _keys_of_default_options(config_dirs)
    body: dict[str, Any] = {}
    for key, value in leaves(asdict(recipe)):
        is_written = value != defaults[key] or any(key == k or k.startswith(f"{key}.") for k in set_anyway)
        if is_written and key.split(".")[0] not in (*_NOT_WRITTEN, "hpo"):
            _put(body, key, value)
    option = f"--config-dir {config_dirs[0]} " if config_dirs else ""
    found = ", ".join(f"{metric} {value:.6g}" for metric, value in trial.values.items())
    head = [
        f"# python train.py {option}recipe={name}",
        "#",
        f"# Trial {trial.number} of the sweep {study.name}: {found}.",
    ]
    text = yaml.safe_dump(json.loads(json.dumps(body)), sort_keys=False, allow_unicode=True)
    return "\n".join([*head, text])


def _keys_of_default_options(config_dirs: Sequence[Path]) -> set[str]:
    with open_loader(config_dirs) as loader:
        return {source.key for source in loader.sources([])}


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> value of everything that is a key of the recipe."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in leaf_types():
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def _put(body: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        body = body.setdefault(parent, {})
    body[last] = list(value) if isinstance(value, tuple) else value
