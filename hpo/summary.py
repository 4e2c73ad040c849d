"""A study in words: for the terminal, and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from galley.errors import ConfigError
from hpo.display import describe_estimate, table, title
from hpo.study.state import Study
from hpo.study.values import ENDED, ParetoFront


@dataclass(frozen=True)
class StudyRow:
    """One line of `list`.

    Attributes:
        state: `running`, `done`, `cancelled`, `interrupted` (nobody runs it), or `unreadable`.
        message: why it cannot be read; `pareto STUDY` says it at length.
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
    """What a study is at, in a line."""
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
    """A study with a damaged journal: one folder must not hide the others."""
    return StudyRow(path.name, str(path), "", "", "unreadable", 0, 0, None, message=str(error))


def study_state(study: Study) -> str:
    """As in `StudyRow`."""
    if study.folder.is_locked():
        return "running"
    open_trials = study.running()
    whole = study.target is None or len(study.trials) >= study.target
    if whole and study.trials and not open_trials:
        return "done"
    return "cancelled" if study.cancelled else "interrupted"


def status_json(study: Study) -> dict[str, Any]:
    """`status STUDY --json`."""
    counts = Counter(trial.state for trial in study.trials)
    return {
        **asdict(study_row(study)),
        "states": dict(counts),
        "list": plain([asdict(t) for t in study.trials]),
    }


def print_status(study: Study, stream: IO[str]) -> None:
    """A row for each trial."""
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


def front_json(found: ParetoFront, study_dir: Path) -> dict[str, Any]:
    """`pareto --json`: the front as it is, and the folder of the study."""
    return {**plain(asdict(found)), "study_dir": str(study_dir)}


def plain(value: Any) -> Any:
    """The value as JSON has it: null stands for a number that is infinite, or none."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_front(found: ParetoFront, stream: IO[str]) -> None:
    """The trials of the front; a star is the winner, `knee` the nearest to the ideal."""
    from rich.console import Console

    trials = [found.stands_for(number) for number in found.front]
    made = table(
        trials,
        found.objectives,
        f"{found.study}: {len(trials)} of {len(found.trials)} trials are on the front",
    )
    Console(file=stream, width=None if stream.isatty() else 140, highlight=False).print(made)
    metrics = [objective.metric for objective in found.objectives]
    for number in found.front:
        estimate = found.estimate(number)
        if estimate is not None:
            print(f"trial {number}: {describe_estimate(estimate, metrics)}", file=stream)
    for estimate in found.estimates:
        if not estimate.enough:
            said = f"only {estimate.count} of its runs succeeded (hpo.min_successes)"
            print(f"point {estimate.number}: not on the front, {said}", file=stream)
    if found.knee is not None:
        print(f"knee: trial {found.knee}", file=stream)
    if found.chosen is not None:
        print(f"chosen: trial {found.chosen}  {found.trials[found.chosen].run}", file=stream)
