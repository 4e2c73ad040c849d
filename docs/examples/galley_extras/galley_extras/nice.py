"""A launcher that runs the ranks on this machine with a lower priority, beside other work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from galley.spec import ClusterFacts, LaunchPlan, RunSpec
from launchers.local.launcher import LocalLauncher


class NiceLauncher(LocalLauncher):
    """As `launcher=local`, through nice(1). `launcher.options.level` is from 1 to 19, by default 10."""

    name = "nice"

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        level = str(spec.recipe.launcher.options.get("level", 10))
        plan = super().plan(spec, run_dir, facts, attempt)
        return replace(plan, argv=("nice", "-n", level, *plan.argv))
