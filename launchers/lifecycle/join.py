"""The ranks of a further machine of a run that was started on the first one."""

from __future__ import annotations

import sys

from galley.errors import ConfigError, Problem, RunFailedError
from galley.report.display import make_display
from galley.rundir import RunFolder
from launchers import make_launcher
from launchers.lifecycle.attempt_monitor import Watch
from launchers.lifecycle.attempt_store import last_job
from launchers.lifecycle.queries import run_state
from launchers.lifecycle.supervise import await_end, catch_interrupts


def join(folder: RunFolder, node: int) -> int:
    """Run the ranks of machine `node` to the end of the attempt that is running; returns its exit code.

    When it returns, no process of the run lives on this machine. The first machine decides the result.

    Raises:
        ConfigError: the run has no such machine, or is not running.
    """
    job = last_job(folder)
    launcher = make_launcher(folder.read_spec().recipe.launcher.kind) if job is None else job.launcher
    joining = launcher.joining()
    if joining is None:
        what = f"runs under launcher={launcher.name}, which starts the ranks of all its machines itself"
        raise ConfigError(Problem(folder.root.name, what, "`join` is for launcher=local"))
    spec = folder.read_attempt_spec(1) if job is None else job.spec
    count = spec.recipe.launcher.torchrun.max_nodes or spec.layout.nodes
    if not 1 <= node < count:
        what = f"{folder.root.name} has {count} machines"
        raise ConfigError(Problem(f"join {node}", what, f"valid: 1 to {count - 1}"))
    if job is None or run_state(folder) not in ("running", "unknown"):
        raise ConfigError(Problem(str(folder.root), "is not running", "start it on the first machine"))
    with catch_interrupts() as interrupts, make_display(folder, job.attempt, sys.stdout) as display:
        own = joining.start_node(job, node)
        await_end(Watch(own), display, interrupts)
    return 0 if joining.exit_code(own.handle) == 0 else RunFailedError.exit_code
