"""Trials as runs: composed, sealed into a folder of their own, and started by a launcher."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import Composed
from galley.errors import ConfigError, DiskFullError, Problem, SubmissionError
from galley.run.seal import seal_with
from galley.rundir import RunFolder
from galley.schema import Hpo, Recipe
from galley.spec import ClusterFacts, Layout, RunResult, RunSpec
from galley.strategy.estimate import estimate_memory, memory_of_rank
from galley.strategy.layout import layout_problems, resolve_layout
from galley.system import proc
from galley.system.packages import package_versions
from galley.trackers import of_trial
from hpo.population import birth
from hpo.space.points import config_groups, point_words
from hpo.study.snapshots import Snapshots
from hpo.study.state import Study
from hpo.study.values import Params, Trial
from launchers import make_launcher
from launchers.base import Launcher, Prepared
from launchers.common.worker_command import worker_arguments
from launchers.lifecycle.attempt_monitor import Watch
from launchers.lifecycle.attempt_store import certain_job, last_handle
from launchers.lifecycle.launch import submit, write_plan
from launchers.lifecycle.prepare import prepare
from launchers.lifecycle.result import result_of

_STRAYS_GRACE_S = 0.5
_STARTING_S = 0.3  # for so long a trial that starts has the cores to itself


@dataclass(frozen=True)
class Slot:
    """One of the `hpo.parallel` places in which a trial runs, with its share of this machine."""

    number: int
    of: int

    def facts(self, facts: ClusterFacts) -> ClusterFacts:
        """Return what one slot has. Raises `ConfigError` if there are GPUs, but not one for each slot."""
        if facts.gpus and facts.gpus < self.of:
            what = f"{self.of} trials at a time, but {facts.hostname} has {facts.gpus} GPUs"
            raise ConfigError(Problem("hpo.parallel", what, f"at most {facts.gpus}, or cluster.device=cpu"))
        return replace(
            facts,
            gpus=facts.gpus // self.of,
            physical_cores=max(1, facts.physical_cores // self.of),
            memory_gib=round(facts.memory_gib / self.of, 2),
        )

    def environment(self, layout: Layout, facts: ClusterFacts) -> dict[str, str]:
        """Return the variable that shows a trial only the GPUs of its slot."""
        if layout.device != "cuda" or self.of == 1:
            return {}
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = named.split(",") if named else [str(index) for index in range(facts.gpus * self.of)]
        mine = devices[self.number * facts.gpus : (self.number + 1) * facts.gpus]
        return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


class TrialRuns:
    """Starts the runs of one study. `composed` caches what was read from the configuration files."""

    def __init__(self, study: Study, composed: Composed | None = None) -> None:
        self._study = study
        self._composed = Composed() if composed is None else composed
        self._packages = package_versions()
        self._launchers: dict[str, Launcher] = {}
        self._snapshots = Snapshots(study.folder)
        self._started_at = -math.inf
        self._groups = config_groups(study.begun.config_dirs)
        launcher = make_launcher(study.begun.recipe.launcher.kind)
        self.remote = launcher.remote
        self.arrays = launcher.arrays() if study.hpo.array else None

    def start(self, trial: Trial, slot: Slot) -> Watch:
        """Start a new attempt of the trial, from its last checkpoint if it has one.

        Raises `ConfigError` if its parameters make no run, or none that fits into memory;
        `SubmissionError` if the launcher refuses.
        """
        prepared = self.prepare(trial, slot)
        write_plan(prepared.plan, prepared.folder)
        watch = Watch(submit(prepared))
        self._started_at = time.monotonic()
        return watch

    def look_ahead(self) -> None:
        """Make what the next trial will need, whatever it is.

        To be called when there is nothing else to do.
        """
        if time.monotonic() - self._started_at > _STARTING_S:
            self._snapshots.make_ahead()

    def prepare(self, trial: Trial, slot: Slot) -> Prepared:
        """Seal the trial's run and plan its next attempt, with the environment of the slot.

        Raises `ConfigError` like `start`.
        """
        folder = RunFolder(Path(trial.run))
        spec, facts = self._sealed(trial, slot, folder)
        last = last_handle(folder)
        prepared = prepare(spec, folder, facts, 1 if last is None else last.attempt + 1, self._launcher(spec))
        environment = {**prepared.plan.env, **slot.environment(spec.layout, facts)}
        return replace(prepared, plan=replace(prepared.plan, env=environment))

    def _sealed(self, trial: Trial, slot: Slot, folder: RunFolder) -> tuple[RunSpec, ClusterFacts]:
        """The trial's run, sealed now if it is new, and the nodes as they are now."""
        if not folder.spec_file.exists():
            return self._seal(trial, slot, folder)
        spec = folder.read_spec()
        return spec, self._facts(self._launcher(spec), spec.recipe, slot, folder)

    def recover(self, trial: Trial) -> Watch | RunResult | None:
        """Return what another controller left of a trial that has not ended.

        That is a scheduler's job that is still alive; or the result of the last attempt; or None if there
        is none, or it died with that controller: then none of its processes is alive any more.
        Raises `SubmissionError` if a scheduler does not answer.
        """
        folder = RunFolder(Path(trial.run))
        job = certain_job(folder) if folder.spec_file.exists() else None
        if job is None:
            _end_strays(folder)
            return None
        job = replace(job, launcher=self._launcher(job.spec))
        if job.remote:
            watch = Watch(job)
            return watch.step() or watch
        job.cancel(_STRAYS_GRACE_S)
        result = result_of(folder, job.attempt)
        return None if result is None or result.state == "cancelled" else result

    def close(self) -> None:
        """Release what the launchers hold for further trials."""
        self._snapshots.close()
        for launcher in self._launchers.values():
            launcher.close()

    def compose(self, params: Params, seed_offset: int = 0) -> Recipe:
        """Return the recipe of one point. Raises `ConfigError` with all that is wrong with it."""
        begun = self._study.begun
        words = point_words(begun.words, params, self._groups)
        if seed_offset:
            words.append(f"seed={begun.recipe.seed + seed_offset}")
        folders = [Path(folder) for folder in begun.config_dirs]
        return compose_recipe(words, folders, composed=self._composed)

    def _seal(self, trial: Trial, slot: Slot, folder: RunFolder) -> tuple[RunSpec, ClusterFacts]:
        """Seal the trial's run. run.json is written last: a folder without it is begun again."""
        root = trial.number if trial.repeat_of is None else trial.repeat_of
        params = {**trial.params, **birth(self._study, trial)}
        recipe = self._tracked(self.compose(params, trial.number - root), trial)
        launcher = make_launcher(recipe.launcher.kind)
        facts = self._facts(launcher, recipe, slot)

        problems = layout_problems(recipe, facts)
        if problems:
            raise ConfigError(problems)

        layout = resolve_layout(recipe, facts)
        check_memory(recipe, layout, facts, self._study.hpo)
        spec = seal_with(recipe, layout, self._study.begun.code, self._packages)
        self._snapshots.give(folder)
        folder.write_spec(spec)
        return spec, facts

    def _tracked(self, recipe: Recipe, trial: Trial) -> Recipe:
        """Return the recipe with the tracker's settings that group the trials of a study under its name."""
        if recipe.tracker.kind == "none":
            return recipe
        folder = None if self.remote else self._study.folder.root
        return replace(recipe, tracker=of_trial(recipe.tracker, self._study.name, trial.number, folder))

    def _launcher(self, spec: RunSpec) -> Launcher:
        """Return the launcher of a kind, one per kind: it knows the processes that it started."""
        kind: str = spec.recipe.launcher.kind
        if self._study.hpo.warm:
            kind = make_launcher(kind).preloaded(spec) or kind
        if kind not in self._launchers:
            self._launchers[kind] = make_launcher(kind)
        return self._launchers[kind]

    @staticmethod
    def _facts(
        launcher: Launcher, recipe: Recipe, slot: Slot, earlier: RunFolder | None = None
    ) -> ClusterFacts:
        facts = launcher.facts(recipe, earlier)
        return facts if launcher.remote else slot.facts(facts)


def end_all(ends: Mapping[int, Callable[[], object]]) -> None:
    """Call the end of each trial, even after one that could not be ended.

    Raises `SubmissionError` that names those.
    """
    left: dict[int, SubmissionError] = {}
    for number, end in ends.items():
        try:
            end()
        except SubmissionError as error:
            left[number] = error
        except DiskFullError:  # the trial has ended, and the next controller finds its result
            continue
    if left:
        not_ended = "".join(f"\n    trial {number}: {error}" for number, error in left.items())
        raise SubmissionError(f"not ended; `cancel` the sweep when its cluster answers:{not_ended}")


def check_memory(recipe: Recipe, layout: Layout, facts: ClusterFacts, hpo: Hpo) -> None:
    """Raise `ConfigError` if a rank's parameters, gradients and moments alone exceed the memory bound."""
    estimate = estimate_memory(recipe, layout)
    have = memory_of_rank(layout, facts) if hpo.max_memory_gib is None else hpo.max_memory_gib
    if estimate is not None and have and estimate.total_gib > have:
        what = f"a rank needs {estimate.total_gib:.2f} GiB before activations, and may have {have:.2f} GiB"
        raise ConfigError(Problem("memory", what, "shard more, or raise hpo.max_memory_gib"))


def _end_strays(folder: RunFolder) -> None:
    """End processes of an attempt whose controller was killed before it could record their handle."""
    strays = proc.find_by_arguments(worker_arguments(folder.root))
    if strays:
        proc.terminate(lambda: proc.find_by_arguments(worker_arguments(folder.root)), _STRAYS_GRACE_S)
