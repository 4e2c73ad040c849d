"""What `pareto` writes: the report of a study as a page, a picture, a table and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from galley.rundir import write_atomic
from hpo.report.page import render
from hpo.report.picture import draw
from hpo.summary import plain
from hpo.values import ParetoFront

PAGE, PICTURE, TABLE, DATA = "report.html", "front.png", "trials.csv", "front.json"


def write_report(front: ParetoFront, params: Sequence[str], folder: Path) -> list[Path]:
    """The report's files in `folder`, the page first. `params`: the keys of the space, in its order."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PAGE, render(front, params, folder))
    write_atomic(folder / TABLE, _table(front, params))
    write_atomic(folder / DATA, _data(front))
    draw(front, folder / PICTURE)
    return [folder / name for name in (PAGE, PICTURE, TABLE, DATA)]


def _data(front: ParetoFront) -> str:
    return (
        json.dumps(plain(asdict(front)), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _table(front: ParetoFront, params: Sequence[str]) -> str:
    """One row a trial; an absent value is an empty cell."""
    metrics = sorted({name for trial in front.trials for name in trial.metrics})
    names = [objective.metric for objective in front.objectives]
    metrics = [*names, *(name for name in metrics if name not in names)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["number", "state", "feasible", "on_front", "knee", "chosen"]
    populated = any(trial.member is not None for trial in front.trials)
    places = ["member", "parent"] if populated else []
    writer.writerow([*head, *params, *metrics, *places, "attempts", "seconds", "run", "message"])
    for trial in front.trials:
        found = (trial.number in front.front, trial.number == front.knee, trial.number == front.chosen)
        told = {**trial.metrics, **trial.values}
        timed = trial.started_at is not None and trial.ended_at is not None
        seconds = round((trial.ended_at or 0) - (trial.started_at or 0), 3) if timed else ""
        row = [trial.number, trial.state, trial.feasible, *found]
        row += [trial.params.get(name, "") for name in params] + [told.get(name, "") for name in metrics]
        place = [trial.member, trial.parent] if populated else []
        writer.writerow([*row, *place, trial.attempts, seconds, trial.run, trial.message])
    return out.getvalue()
