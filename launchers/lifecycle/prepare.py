"""A sealed run and the plan of its next attempt: every verb prepares one, and `launch` starts it as it is."""

from __future__ import annotations

from dataclasses import replace

from galley.errors import SubmissionError
from galley.rundir import RunFolder
from galley.spec import ClusterFacts, LaunchPlan, RunSpec, from_json
from launchers import make_launcher
from launchers.base import Launcher, Prepared


def prepare(
    spec: RunSpec,
    folder: RunFolder,
    facts: ClusterFacts,
    attempt: int = 1,
    launcher: Launcher | None = None,
) -> Prepared:
    """Plan an attempt of a sealed run by `launcher`, or by the recipe's own. Nothing is written or started.

    A run that has moved to other ranks has their layout in its plan.
    Raises `ConfigError` if the launcher cannot start it.
    """
    launcher = launcher or make_launcher(spec.recipe.launcher.kind)
    plan = launcher.plan(spec, folder.root, facts, attempt)
    if spec.sealed is not spec:
        plan = replace(plan, layout=spec.layout)
    return Prepared(launcher, spec, folder, plan, facts)


def read_prepared(folder: RunFolder, attempt: int) -> Prepared:
    """What another process has prepared, and written down, for this one to start."""
    plan = from_json(LaunchPlan, (folder.plan / "launch.json").read_bytes())
    if plan.attempt != attempt:
        raise SubmissionError(f"{folder.root}: the plan is that of attempt {plan.attempt}, not {attempt}")
    return Prepared(make_launcher(plan.launcher), folder.read_spec(), folder, plan)
