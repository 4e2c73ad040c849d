"""A study as text for the terminal, and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from galley.counting import counted
from galley.errors import ConfigError
from hpo.display import describe_estimate, table, title
from hpo.study.state import Study
from hpo.study.values import ENDED, ParetoFront


@dataclass(frozen=True)
class StudyRow:
    """One line of `list`.

    Attributes:
        state: `running`, `done`, `cancelled`, `interrupted` (no controller runs it), or `unreadable`.
        message: why it cannot be read; `pareto STUDY` gives the details.
    """

    name: str
    study_dir: str
    recipe: str
    backend: str
    state: str
    trials: int
    ended: int
    target: int | None
    message: str = ""


def study_row(study: Study) -> StudyRow:
    """Return the state of a study as one line."""
    return StudyRow(
        name=study.name,
        study_dir=str(study.folder.root),
        recipe=study.begun.recipe.recipe,
        backend=study.hpo.kind,
        state=study_state(study),
        trials=len(study.trials),
        ended=sum(trial.state in ENDED for trial in study.trials),
        target=study.target,
    )


def unreadable_row(path: Path, error: ConfigError) -> StudyRow:
    """Return the line of a study with a damaged journal: one folder must not hide the others."""
    return StudyRow(path.name, str(path), "", "", "unreadable", 0, 0, None, message=str(error))


def study_state(study: Study) -> str:
    """Return the state, as in `StudyRow`."""
    if study.folder.is_locked():
        return "running"
    open_trials = study.running()
    whole = study.target is None or len(study.trials) >= study.target
    if whole and study.trials and not open_trials:
        return "done"
    return "cancelled" if study.cancelled else "interrupted"


def status_json(study: Study) -> dict[str, Any]:
    """Return what `status STUDY --json` prints."""
    counts = Counter(trial.state for trial in study.trials)
    return {
        **asdict(study_row(study)),
        "states": dict(counts),
        "list": plain([asdict(t) for t in study.trials]),
    }


def print_status(study: Study, stream: IO[str]) -> None:
    """Print one row per trial."""
    from rich.console import Console

    running = [trial.number for trial in study.trials if trial.state == "running"]
    state = study_state(study)
    heading = f"{title(study, running if state == 'running' else [])} · {state}"
    Console(file=stream, width=None if stream.isatty() else 140, highlight=False).print(
        table(study.trials, study.objectives, heading)
    )
    for trial in study.trials:
        if trial.message:
            print(f"trial {trial.number}: {trial.message.splitlines()[0]}", file=stream)
    print(study.folder.root, file=stream)


def front_json(front: ParetoFront, study_dir: Path) -> dict[str, Any]:
    """Return what `pareto --json` prints: the front as it is, and the folder of the study."""
    return {**plain(asdict(front)), "study_dir": str(study_dir)}


def plain(value: Any) -> Any:
    """Return the value as JSON has it: null stands for an infinite number and for NaN."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_front(front: ParetoFront, stream: IO[str]) -> None:
    """Print the trials of the front, the one nearest to the ideal (`knee`), and the chosen one."""
    from rich.console import Console

    trials = [front.stands_for(number) for number in front.front]
    made = table(
        trials,
        front.objectives,
        f"{front.study}: {len(trials)} of {counted(len(front.trials), 'trial')}"
        f" {'is' if len(trials) == 1 else 'are'} on the front",
    )
    Console(file=stream, width=None if stream.isatty() else 140, highlight=False).print(made)
    metrics = [objective.metric for objective in front.objectives]
    for number in front.front:
        estimate = front.estimate(number)
        if estimate is not None:
            print(f"trial {number}: {describe_estimate(estimate, metrics)}", file=stream)
    for estimate in front.estimates:
        if not estimate.enough:
            reason = f"only {estimate.count} of its runs succeeded (hpo.min_successes)"
            print(f"point {estimate.number}: not on the front, {reason}", file=stream)
    if front.knee is not None:
        print(f"knee: trial {front.knee}", file=stream)
    if front.chosen is not None:
        print(f"chosen: trial {front.chosen}  {front.trials[front.chosen].run}", file=stream)
