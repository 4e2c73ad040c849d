"""`status`, `logs`, `cancel`, `list`: acting on runs by folder or id."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.options import Options
from galley.errors import ConfigError, Problem
from galley.json_numbers import standard
from galley.report.display import format_s
from galley.rundir import RunFolder

if TYPE_CHECKING:
    from launchers.lifecycle.queries import RunStatus


def status(words: Sequence[str], options: Options) -> int:
    """Print where the run is. Exit code 0 whatever the state."""
    from hpo.study.folder import means_study
    from launchers.lifecycle.queries import run_status

    if len(words) == 1 and means_study(words[0], options.root):
        from cli.sweep import study_status

        return study_status(words[0], options)
    found = run_status(_the_run("status", words, options))
    print(json.dumps(standard(asdict(found))) if options.json else _describe(found))
    return 0


def logs(words: Sequence[str], options: Options) -> int:
    """Print the log of the main rank, or of `--rank`; `--follow` until the run ends."""
    from launchers.lifecycle.queries import log_lines

    for line in log_lines(_the_run("logs", words, options), options.rank, options.follow):
        sys.stdout.write(line)
        sys.stdout.flush()
    return 0


def cancel(words: Sequence[str], options: Options) -> int:
    """End the run. A run that has ended already stays as it is."""
    from hpo.study.folder import means_study
    from launchers.lifecycle.queries import cancel_run

    if len(words) == 1 and means_study(words[0], options.root):
        from cli.sweep import cancel_study

        return cancel_study(words[0], options)
    folder = _the_run("cancel", words, options)
    state = cancel_run(folder)
    print(json.dumps({"run_dir": str(folder.root), "state": state}) if options.json else state)
    return 0


def list_runs(words: Sequence[str], options: Options) -> int:
    """Print all runs of the `runs/` folder, oldest first, then all sweeps."""
    from cli.sweep import list_studies
    from launchers.lifecycle import queries

    if words:
        raise ConfigError(Problem(" ".join(words), "`list` takes no argument"))
    found, sweeps = queries.list_runs(options.root), list_studies(options)
    if options.json:
        print(json.dumps(standard([*(asdict(run) for run in found), *sweeps])))
        return 0
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        print(f"{run.name:<{width}}  {run.state:<10} {_short(run)}".rstrip())
    for sweep in sweeps:
        about = str(sweep["message"]).split("\n")[0] or f"{sweep['ended']} trials by {sweep['backend']}"
        print(f"{sweep['name']:<{width}}  {sweep['state']:<10} {about}")
    return 0


def _the_run(verb: str, words: Sequence[str], options: Options) -> RunFolder:
    from launchers.lifecycle.queries import find_run

    if len(words) != 1:
        raise ConfigError(Problem(verb, "takes one run", f"{verb} RUN, its folder or its id (see `list`)"))
    return find_run(words[0], options.root)


def _describe(run: RunStatus) -> str:
    rows = {
        "run": run.run_dir,
        "recipe": f"{run.recipe} · {run.strategy}",
        "state": f"{run.state} (attempt {run.attempt})" if run.attempt else "not submitted",
        "where": _short(run),
        "why": run.result.message if run.result is not None else "",
    }
    return "\n".join(f"{name:<8}{value}" for name, value in rows.items() if value)


def _short(run: RunStatus) -> str:
    """Metrics of a run that has ended, the phase of a living one."""
    if run.result is not None:
        metrics = "  ".join(f"{key} {value:.4f}" for key, value in sorted(run.result.metrics.items()))
        return f"{run.result.steps} steps  {format_s(run.result.wall_s)}  {metrics}".rstrip()
    if run.progress is None:
        return ""
    of = f"/{run.progress.max_steps}" if run.progress.max_steps else ""
    return f"{run.progress.phase}  step {run.progress.step}{of}"
