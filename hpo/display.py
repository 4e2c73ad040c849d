"""Show a living sweep: a live table in a terminal, else one line per trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from galley.counting import counted
from galley.report.display import format_s
from galley.rundir import RunFolder
from hpo.study.state import Study
from hpo.study.values import ENDED, Estimate, Objective, Trial

if TYPE_CHECKING:
    from rich.table import Table

Show = Callable[[Study, list[int]], None]
_ROWS = 16  # rows of a live table: the newest trials
_PERIOD_S = 0.25


@contextmanager
def make_show(stream: IO[str]) -> Iterator[Show]:
    """Yield the function that the controller calls after each round."""
    if not stream.isatty():
        yield PlainShow(stream)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(file=stream), refresh_per_second=4, transient=True) as live:
        yield LiveShow(live.update)


class PlainShow:
    """Prints one line for each trial that has ended."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._said: set[int] | None = None

    def __call__(self, study: Study, running: list[int]) -> None:
        ended = {trial.number for trial in study.trials if trial.state in ENDED}
        if self._said is None:
            self._said = set()
            if ended:
                print(f"{counted(len(ended), 'trial')} had ended before", file=self._stream, flush=True)
                self._said = ended
        for number in sorted(ended - self._said):
            line = describe(study.trials[number], study.objectives)
            print(f"{line}", file=self._stream, flush=True)
        self._said |= ended


class LiveShow:
    """Draws a table, again when enough time has passed."""

    def __init__(self, update: Callable[[Table], None]) -> None:
        self._update = update
        self._drawn = 0.0

    def __call__(self, study: Study, running: list[int]) -> None:
        if time.monotonic() - self._drawn < _PERIOD_S:
            return
        self._drawn = time.monotonic()
        self._update(table(study.trials[-_ROWS:], study.objectives, title(study, running)))


def title(study: Study, running: Sequence[int]) -> str:
    """Return a heading like `12 of 20 trials, 2 running · 1 failed`."""
    states = [trial.state for trial in study.trials]
    ended = sum(state in ENDED for state in states)
    others = [f"{states.count(s)} {s}" for s in ("pruned", "infeasible", "failed") if s in states]
    trials = counted(ended, "trial")
    if study.target is not None:
        trials = f"{ended} of {counted(study.target, 'trial')}"
    return " · ".join([f"{study.name}: {trials}, {len(running)} running", *others])


def table(trials: Sequence[Trial], objectives: Sequence[Objective], heading: str) -> Table:
    """Return a table with one row per trial: state, objectives, parameters."""
    from rich.table import Table

    made = Table(title=heading, title_justify="left", box=None, header_style="bold")
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    places = ("member", "from") if any(trial.member is not None for trial in trials) else ()
    for name in ("trial", *places, "state", *(objective.metric for objective in objectives), *keys):
        made.add_column(name, justify="left" if name == "state" else "right")
    for trial in trials:
        values = [format_value(trial.values.get(objective.metric)) for objective in objectives]
        params = [format_value(trial.params[key]) if key in trial.params else "" for key in keys]
        place = [format_value(trial.member), format_value(trial.parent)][: len(places)]
        made.add_row(str(trial.number), *place, progress_of(trial), *values, *params)
    return made


def progress_of(trial: Trial) -> str:
    """Return the state; for a running trial its phase and step."""
    if trial.state != "running":
        return trial.state if trial.feasible or trial.state != "succeeded" else "out of bounds"
    progress = RunFolder(Path(trial.run)).read_progress()
    if progress is None:
        return "starting"
    return f"{progress.phase} {progress.step}/{progress.max_steps}" if progress.max_steps else progress.phase


def describe(trial: Trial, objectives: Sequence[Objective]) -> str:
    """Return one line: number, state, values or the reason, parameters, time."""
    values = "  ".join(
        f"{o.metric} {format_value(trial.values[o.metric])}" for o in objectives if trial.values
    )
    params = " ".join(f"{key}={format_value(value)}" for key, value in trial.params.items())
    member = "" if trial.member is None else f"member {trial.member}"
    member += "" if trial.parent is None else f" from trial {trial.parent}"
    lived = format_s((trial.ended_at or 0.0) - (trial.started_at or 0.0)) if trial.ended_at else ""
    first_line = trial.message.splitlines()[0] if trial.message else ""
    return "  ".join(
        filter(
            None,
            [f"trial {trial.number:>3}", f"{trial.state:<10}", values, params, member, lived, first_line],
        )
    )


def describe_estimate(found: Estimate, metrics: Sequence[str]) -> str:
    """Return text like `mean of 3 runs: eval/f1 0.61 ± 0.02`, with the sample standard deviation."""
    parts = [
        f"{name} {format_value(found.mean[name])}"
        + (f" ± {format_value(found.std[name])}" if name in found.std else "")
        for name in metrics
        if name in found.mean
    ]
    runs = "one run" if found.count == 1 else f"mean of {found.count} runs"
    return f"{runs}: {', '.join(parts)}"


def format_value(value: Any) -> str:
    """Return a value for a table: four significant digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
