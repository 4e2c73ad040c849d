"""The ranks of a further machine of a run that was started on the first one."""

from __future__ import annotations

import sys
from dataclasses import replace

from galley.errors import ConfigError, Problem, RunFailedError
from galley.report.display import make_display
from galley.rundir import RunFolder
from launchers.lifecycle.attempt_monitor import Watch
from launchers.lifecycle.attempt_store import last_handle
from launchers.lifecycle.queries import run_state
from launchers.lifecycle.supervise import await_end, catch_interrupts
from launchers.local.launcher import LocalLauncher


def join(folder: RunFolder, node: int) -> int:
    """Run the ranks of machine `node` to the end of the attempt that is running; returns its exit code.

    When it returns, no process of the run lives on this machine. The first machine decides the result.

    Raises:
        ConfigError: the run has no such machine, or is not running.
    """
    handle = last_handle(folder)
    if handle is not None and handle.launcher != LocalLauncher.name:
        what = f"runs under launcher={handle.launcher}, which starts the ranks of all its machines itself"
        raise ConfigError(Problem(folder.root.name, what, "`join` is for launcher=local"))
    spec = folder.read_attempt_spec(handle.attempt if handle else 1)
    count = spec.recipe.launcher.torchrun.max_nodes or spec.layout.nodes
    if not 1 <= node < count:
        what = f"{folder.root.name} has {count} machines"
        raise ConfigError(Problem(f"join {node}", what, f"valid: 1 to {count - 1}"))
    if handle is None or run_state(folder) not in ("running", "unknown"):
        raise ConfigError(Problem(str(folder.root), "is not running", "start it on the first machine"))
    launcher = LocalLauncher()
    facts = replace(launcher.facts(spec.recipe, folder), node=node)
    plan = launcher.plan(spec, folder.root, facts, handle.attempt)
    with catch_interrupts() as interrupts, make_display(folder, handle.attempt, sys.stdout) as display:
        own = launcher.start(plan, folder.launcher_log(handle.attempt, node))
        await_end(Watch(launcher, own, folder, spec), display, interrupts)
    return 0 if launcher.exit_code(own) == 0 else RunFailedError.exit_code
