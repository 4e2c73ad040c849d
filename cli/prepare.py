"""What every verb that starts something does first: everything up to, and without, writing or starting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from launchers.base import Prepared


@dataclass(frozen=True)
class Asked:
    """What the words of a command ask for, found to be possible.

    Attributes:
        words: that ask for it, the strategy that `strategy=auto` chose in its place.
        choice: of the strategy; null where the recipe names one.
        recipe: with `run_dir`, `detach` and `hpo`, which a sealed spec leaves out.
        facts: the nodes as its launcher sees them.
    """

    words: list[str]
    choice: Choice | None
    recipe: Recipe
    facts: ClusterFacts


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to be written down and started, and what there is to say of it before."""

    asked: Asked
    prepared: Prepared
    estimate: Estimate | None
    warnings: list[str]

    @property
    def spec(self) -> RunSpec:
        return self.prepared.spec

    @property
    def run_dir(self) -> Path:
        return self.prepared.folder.root

    @property
    def plan(self) -> LaunchPlan:
        return self.prepared.plan

    @property
    def words(self) -> list[str]:
        return self.asked.words

    @property
    def recipe(self) -> Recipe:
        return self.asked.recipe

    @property
    def facts(self) -> ClusterFacts:
        return self.asked.facts

    @property
    def choice(self) -> Choice | None:
        return self.asked.choice


class NodeFacts:
    """Facts of the nodes for the recipes of one command, probed once for all that ask for the same nodes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._probed: list[tuple[tuple[object, ...], ClusterFacts]] = []

    def of(self, recipe: Recipe) -> ClusterFacts:
        """Raises `ConfigError` as `Launcher.facts` does."""
        from launchers import make_launcher

        ranks = recipe.strategy.data_parallel
        nodes = (recipe.launcher, recipe.cluster, recipe.precision, ranks, recipe.after)
        found = next((facts for known, facts in self._probed if known == nodes), None)
        if found is None:
            after = _predecessor(recipe, self._options)
            found = make_launcher(recipe.launcher.kind).facts(recipe, after=after)
            self._probed.append((nodes, found))
        return found

    def of_trial(self, recipe: Recipe) -> ClusterFacts:
        """What each of the trials that run at a time has; of a recipe without a sweep as `of`."""
        if recipe.hpo.kind == "none":
            return self.of(recipe)
        from hpo.trials import Slot
        from launchers import make_launcher

        remote = make_launcher(recipe.launcher.kind).remote
        return self.of(recipe) if remote else Slot(0, max(1, recipe.hpo.parallel)).facts(self.of(recipe))


def ask(words: Sequence[str], options: Options, exports: bool = False) -> Asked:
    """Compose and check what `words` ask for, a run or a sweep, on the nodes that there are.

    Every verb that starts something comes through here. `exports`: a sweep of W&B's is to be written down.
    Raises `ConfigError` with all that is wrong.
    """
    facts = NodeFacts(options)

    def compose(words: Sequence[str]) -> Recipe:
        return compose_recipe(words, options.config_dirs, partial(_problems, words, options, facts, exports))

    recipe = compose(words)
    words, choice = _settle(with_absolute_path(words), recipe, options, facts)
    if choice is not None:
        recipe = compose(words)
    return Asked(words, choice, recipe, facts.of(recipe))


def prepare(words: Sequence[str], options: Options) -> PreparedRun:
    """Compose, check, lay out, seal and plan the run that `words` ask for."""
    return prepare_run(ask(words, options), options)


def prepare_run(asked: Asked, options: Options) -> PreparedRun:
    """Lay out, seal and plan what was asked for. Nothing is written or started."""
    from launchers import make_launcher
    from launchers.lifecycle.prepare import prepare as prepare_attempt

    recipe, facts = asked.recipe, asked.facts
    launcher = make_launcher(recipe.launcher.kind)
    layout = resolve_layout(recipe, facts)
    spec = seal(recipe, layout)
    estimate = estimate_memory(recipe, layout)
    return PreparedRun(
        asked=asked,
        prepared=prepare_attempt(spec, RunFolder(_run_dir(recipe, spec, options)), facts, launcher=launcher),
        estimate=estimate,
        warnings=[
            *layout_warnings(recipe, layout, facts),
            *place_warnings(recipe),
            *unread_warnings(recipe),
            *direction_warnings(recipe),
            *memory_warnings(estimate, layout, facts),
            *([] if launcher.remote else map(str, missing_packages(recipe))),
        ],
    )


def direction_warnings(recipe: Recipe) -> list[str]:
    """Directions of metrics that the recipe states against their table."""
    from galley.metrics import direction_warnings as of_run
    from galley.tasks import task_metrics

    found = of_run(recipe, task_metrics(recipe))
    if recipe.hpo.kind == "none":
        return found
    from hpo.objectives import direction_warnings as of_sweep

    return [*found, *of_sweep(recipe)]


def settle(words: Sequence[str], recipe: Recipe, options: Options) -> tuple[list[str], Choice | None]:
    """The words with the strategy that suits the machine in the place of `strategy=auto`, and why.

    They are what the user would have typed: the run is the same as with that strategy by its name.
    """
    return _settle(words, recipe, options, NodeFacts(options))


def _settle(
    words: Sequence[str], recipe: Recipe, options: Options, facts: NodeFacts
) -> tuple[list[str], Choice | None]:
    if recipe.strategy.name != AUTO:
        return list(words), None
    others = [word for word in words if not word.startswith("strategy=")]
    choice = choose(
        lambda name: compose_recipe([*others, f"strategy={name}"], options.config_dirs), facts.of(recipe)
    )
    return [*others, *choice.words], choice


def refuse_missing_packages(recipe: Recipe) -> None:
    """Raise `ConfigError` if the ranks start in this environment, and it lacks a package that they import."""
    from launchers import make_launcher

    problems = [] if make_launcher(recipe.launcher.kind).remote else list(missing_packages(recipe))
    if problems:
        raise ConfigError(problems)


def _problems(
    words: Sequence[str], options: Options, facts: NodeFacts, exports: bool, recipe: Recipe
) -> list[Problem]:
    """Why the nodes cannot carry the recipe, or its sweep cannot be made."""
    if recipe.hpo.kind == "none":
        return _machine_problems(recipe, facts)
    from hpo.check import sweep_problems, trial_problems

    problems = trial_problems(recipe, words, options.config_dirs, partial(_machine_problems, facts=facts))
    return [*problems, *([] if exports and recipe.hpo.kind == "wandb" else sweep_problems(recipe))]


def _machine_problems(recipe: Recipe, facts: NodeFacts) -> list[Problem]:
    """Why the nodes, or the share of this machine that a trial has, cannot carry the recipe."""
    try:
        found = facts.of_trial(recipe)
    except ConfigError as error:
        return list(error.problems)
    if recipe.strategy.name == AUTO:
        return []
    problems = layout_problems(recipe, found)
    if problems or resolve_layout(recipe, found).world_size == 1:
        return problems
    return list(interface_problems(recipe, found))


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
