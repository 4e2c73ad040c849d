"""Options of config groups that are chosen by name, and what is wrong with a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galley.config.provenance import choice_sources
from galley.errors import Problem, valid_values
from galley.schema import Recipe
from galley.strategy.names import AUTO, DEFINING, MEANINGS, strategy_name

if TYPE_CHECKING:
    from galley.config.hydra_bridge import Loader

RECIPE_GROUP = "recipes"
# The option that somebody means who knows it by the name of the program or of the object behind it.
MEANT = {
    "launcher": {
        "kubernetes": "k8s", "pytorchjob": "k8s", "trainjob": "k8s", "torchrun": "local", "sbatch": "slurm",
        "srun": "slurm", "mpirun": "mpi",
    }
}  # fmt: skip
# What was an option elsewhere, and why it is none here.
GONE = {("hpo", "sigopt"): "SigOpt's service has ended: there is nothing left to connect to"}
# Another name of an option.
ALIASES = {("hpo", "raytune"): "ray"}
# What Hydra says of an option that no folder has.
_NOT_FOUND = re.compile(r"Could not find '(?P<group>[^'/]+)/(?P<option>[^']+)'")


def no_such_option(where: str, option: str, group: str, options: Sequence[str]) -> Problem:
    """`option` is none of the group's `options`."""
    hint = valid_values(option, options)
    meant = MEANT.get(group, {}).get(option)
    if meant is not None:
        hint = f"did you mean '{meant}'? valid: {', '.join(options)}"
    if (group, option) in GONE:
        return Problem(where, GONE[group, option], f"valid: {', '.join(options)}")
    if group in ("model", "data"):
        hint += f"; for another one set {group}.name=…" + (" or data.path=DIR" if group == "data" else "")
    return Problem(where, f"'{option}' is not a {group}", hint)


def option_in_file(message: str, files: Sequence[Path], loader: Loader) -> Problem | None:
    """Hydra's message about an option that there is not, with the line of `files` that chooses it."""
    found = _NOT_FOUND.search(message)
    if found is None:
        return None
    group, option = found["group"], found["option"]
    sources = [source for file in files for source in choice_sources(file)]
    where = next((s.where for s in sources if (s.key, s.value) == (group, option)), group)
    word = "recipe" if group == RECIPE_GROUP else group
    return no_such_option(where, option, word, loader.options(group))


def command_line_only(container: Mapping[str, Any]) -> Iterator[Problem]:
    """What a recipe cannot say of itself. The values are the command line's in any case."""
    hints = {
        "recipe": "a recipe builds on another one by `defaults: [/recipes/NAME@_global_]`",
        "profile": "profile=NAME takes the file NAME.yaml in the folder beside the recipe",
    }
    for key, hint in hints.items():
        if key in container:
            yield Problem(key, "is chosen on the command line, not by a recipe", hint)


def name_strategy(container: Mapping[str, Any], overrides: Sequence[str], loader: Loader) -> None:
    """A user's option need not repeat its own name."""
    section = container.get("strategy")
    if isinstance(section, dict) and "name" not in section:
        section["name"] = loader.chosen("strategy", overrides)


def strategy_name_problems(recipe: Recipe, overrides: Sequence[str], loader: Loader) -> Iterator[Problem]:
    """A name of a strategy that no option has, or that is the name of an option that was not chosen."""
    strategy = recipe.strategy
    name, options = strategy.name, loader.options("strategy")
    if name not in (*options, *MEANINGS, strategy_name(strategy)):
        yield Problem("strategy.name", f"'{name}' is not a strategy", valid_values(name, options))
    elif name not in MEANINGS and name in options and name != loader.chosen("strategy", overrides):
        there = _of_option(name, overrides, loader)
        if name == AUTO or any(getattr(strategy, key) != there.get(key, DEFINING[key]) for key in DEFINING):
            what = f"names strategy '{name}' without choosing it"
            yield Problem("strategy.name", what, f"strategy={name}, in a recipe `strategy: {name}`")


def _of_option(name: str, overrides: Sequence[str], loader: Loader) -> dict[str, Any]:
    others = [text for text in overrides if not text.startswith("strategy=")]
    section = loader.merged([*others, f"strategy={name}"]).get("strategy")
    return section if isinstance(section, dict) else {}
