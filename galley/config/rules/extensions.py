"""Rules of what comes from outside Galley: classes in folders of plugins, and options that only they read."""

from __future__ import annotations

from collections.abc import Iterator

from galley.config.rules.model import own_code_problems
from galley.errors import Problem, valid_values
from galley.registry import (
    BACKENDS,
    CHOSEN_BY_RECIPES,
    DATA,
    EMBEDDED_PREFIX,
    LAUNCHERS,
    MODELS,
    TASKS,
    TOKENIZERS,
    TRACKERS,
    Registry,
)
from galley.schema import Recipe
from galley.tasks import task_of
from galley.tasks.options import option_problems


def extension_problems(recipe: Recipe) -> Iterator[Problem]:
    """Names are checked by the schema; of `MODULE:CLASS` the file must be there. Nothing is imported."""
    for registry in CHOSEN_BY_RECIPES:
        kind = registry.chosen(recipe)
        if ":" in kind:
            yield from own_code_problems(registry.key, kind, recipe.plugins)
    options = {
        TASKS: recipe.task.options,
        LAUNCHERS: recipe.launcher.options,
        BACKENDS: recipe.hpo.options,
        TRACKERS: recipe.tracker.options,
    }
    yield from option_problems(task_of(recipe), recipe.task.options)
    for registry, values in options.items():
        kind = registry.chosen(recipe)
        if values and (kind == "none" or kind in registry.built_in):
            section = registry.key.partition(".")[0]
            what = f"is read only by a {section} from outside Galley, not by {registry.key}={kind}"
            yield Problem(f"{section}.options", what, "leave it out")
    yield from _embedded(recipe)


def _embedded(recipe: Recipe) -> Iterator[Problem]:
    """Names of embedded models and data that nothing has."""
    names: list[tuple[Registry, str, str | None]] = [
        (MODELS, MODELS.key, recipe.model.name),
        (TOKENIZERS, TOKENIZERS.key, recipe.model.tokenizer),
        (MODELS, "task.distillation.teacher", recipe.task.distillation.teacher),
    ]
    if recipe.data.path is None and not recipe.data.mix:
        names.append((DATA, DATA.key, recipe.data.name))
    names += [(DATA, f"data.mix.{number}.name", one.name) for number, one in enumerate(recipe.data.mix)]
    for registry, key, name in names:
        short = (name or "").removeprefix(EMBEDDED_PREFIX)
        if name is not None and short != name and short not in registry:
            yield Problem(f"{key}={name}", "is not embedded", valid_values(short, registry))
