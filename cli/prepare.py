"""What `plan` and `run` have in common: everything up to, and without, writing or starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.options import Options
from galley.config.compose import compose_recipe
from galley.config.rank_paths import place_warnings
from galley.config.recipe_file import with_absolute_path
from galley.config.rules.launcher import unread_warnings
from galley.errors import ConfigError, Problem
from galley.run.missing_packages import missing_packages
from galley.run.seal import default_run_dir, seal
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import ClusterFacts, LaunchPlan, RunSpec
from galley.strategy.auto import AUTO, Choice, choose
from galley.strategy.estimate import Estimate, estimate_memory, memory_warnings
from galley.strategy.layout import layout_problems, layout_warnings, resolve_layout
from galley.system.network_interfaces import interface_problems


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be started.

    Attributes:
        recipe: with `run_dir` and `detach`, which the sealed spec leaves out.
        words: that ask for it, the strategy that `strategy=auto` chose in its place.
        choice: of the strategy; null where the recipe names one.
    """

    words: list[str]
    choice: Choice | None

    recipe: Recipe
    spec: RunSpec
    run_dir: Path
    facts: ClusterFacts
    plan: LaunchPlan
    estimate: Estimate | None
    warnings: list[str]


def prepare(words: Sequence[str], options: Options) -> Prepared:
    """Compose, check, lay out, seal and plan the run that `words` ask for."""
    from launchers import make_launcher

    def can_be_laid_out(recipe: Recipe) -> list[Problem]:
        try:
            facts = make_launcher(recipe.launcher.kind).facts(recipe, _predecessor(recipe, options))
        except ConfigError as error:
            return list(error.problems)
        problems = [] if recipe.strategy.name == AUTO else _machine_problems(recipe, facts)
        return [*problems, *_sweep_problems(recipe)]

    recipe = compose_recipe(words, options.config_dirs, can_be_laid_out)
    words, choice = settle(with_absolute_path(words), recipe, options)
    if choice is not None:
        recipe = compose_recipe(words, options.config_dirs, can_be_laid_out)
    launcher = make_launcher(recipe.launcher.kind)
    facts = launcher.facts(recipe, after=_predecessor(recipe, options))
    layout = resolve_layout(recipe, facts)
    spec = seal(recipe, layout)
    run_dir = _run_dir(recipe, spec, options)
    estimate = estimate_memory(recipe, layout)
    return Prepared(
        words=words,
        choice=choice,
        recipe=recipe,
        spec=spec,
        run_dir=run_dir,
        facts=facts,
        plan=launcher.plan(spec, run_dir, facts, attempt=1),
        estimate=estimate,
        warnings=[
            *layout_warnings(recipe, layout, facts),
            *place_warnings(recipe),
            *unread_warnings(recipe),
            *memory_warnings(estimate, layout, facts),
            *([] if launcher.remote else map(str, missing_packages(recipe))),
        ],
    )


def settle(words: Sequence[str], recipe: Recipe, options: Options) -> tuple[list[str], Choice | None]:
    """The words with the strategy that suits the machine in the place of `strategy=auto`, and why.

    They are what the user would have typed: the run is the same as with that strategy by its name.
    """
    from launchers import make_launcher

    if recipe.strategy.name != AUTO:
        return list(words), None
    others = [word for word in words if not word.startswith("strategy=")]
    facts = make_launcher(recipe.launcher.kind).facts(recipe, _predecessor(recipe, options))
    choice = choose(lambda name: compose_recipe([*others, f"strategy={name}"], options.config_dirs), facts)
    return [*others, *choice.words], choice


def refuse_missing_packages(recipe: Recipe) -> None:
    """Raise `ConfigError` if the ranks start in this environment, and it lacks a package that they import."""
    from launchers import make_launcher

    problems = [] if make_launcher(recipe.launcher.kind).remote else list(missing_packages(recipe))
    if problems:
        raise ConfigError(problems)


def _machine_problems(recipe: Recipe, facts: ClusterFacts) -> list[Problem]:
    problems = layout_problems(recipe, facts)
    if problems or resolve_layout(recipe, facts).world_size == 1:
        return problems
    return list(interface_problems(recipe, facts))


def _sweep_problems(recipe: Recipe) -> list[Problem]:
    if recipe.hpo.kind == "none":
        return []
    from hpo.check import sweep_problems

    return sweep_problems(recipe)


def _predecessor(recipe: Recipe, options: Options) -> RunFolder | None:
    from launchers.lifecycle.queries import find_run

    return None if recipe.after is None else find_run(recipe.after, options.root)


def _run_dir(recipe: Recipe, spec: RunSpec, options: Options) -> Path:
    if recipe.run_dir is None:
        return default_run_dir(spec, options.root.resolve())
    folder = Path(recipe.run_dir).expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = f"continue it with `resume {recipe.run_dir}`, or choose another run_dir"
        raise ConfigError(Problem(f"run_dir={recipe.run_dir}", "exists and is not empty", hint))
    return folder
