"""The report of a study, which `pareto` writes: a page, a picture, a table and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from galley.rundir import write_atomic
from hpo.report.page import render
from hpo.report.plot import draw
from hpo.study.values import Estimate, ParetoFront, Trial
from hpo.summary import plain

PAGE, PICTURE, TABLE, DATA = "report.html", "front.png", "trials.csv", "front.json"


def write_report(front: ParetoFront, params: Sequence[str], folder: Path) -> list[Path]:
    """Write the report's files into `folder`; return them, the page first.

    `params`: the keys of the space, in its order.
    """
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


def _means(trial: Trial, names: Sequence[str], estimates: Mapping[int, Estimate]) -> list[Any]:
    """Return the point of a trial, how many of its runs succeeded, mean and spread of each objective."""
    point = trial.number if trial.repeat_of is None else trial.repeat_of
    estimate = estimates.get(point)
    if estimate is None:
        return [point, 0, *[""] * (2 * len(names))]
    return [
        point,
        estimate.count,
        *(part.get(n, "") for n in names for part in (estimate.mean, estimate.std)),
    ]


def _table(front: ParetoFront, params: Sequence[str]) -> str:
    """Return one row per trial, with its own values, and with repeats those of its point.

    An absent value is an empty cell.
    """
    estimates = {one.number: one for one in front.estimates}
    metrics = sorted({name for trial in front.trials for name in trial.metrics})
    names = [objective.metric for objective in front.objectives]
    metrics = [*names, *(name for name in metrics if name not in names)]

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["number", "state", "feasible", "on_front", "knee", "chosen"]
    populated = any(trial.member is not None for trial in front.trials)
    places = ["member", "parent"] if populated else []
    means = [f"{name} {kind}" for name in names for kind in ("mean", "std")] if estimates else []
    means = ["point", "succeeded", *means] if means else []
    writer.writerow([*head, *params, *metrics, *means, *places, "attempts", "seconds", "run", "message"])

    for trial in front.trials:
        marks = (trial.number in front.front, trial.number == front.knee, trial.number == front.chosen)
        values = {**trial.metrics, **trial.values}
        timed = trial.started_at is not None and trial.ended_at is not None
        seconds = round((trial.ended_at or 0) - (trial.started_at or 0), 3) if timed else ""
        row = [trial.number, trial.state, trial.feasible, *marks]
        row += [trial.params.get(name, "") for name in params] + [values.get(name, "") for name in metrics]
        row += _means(trial, names, estimates) if means else []
        place = [trial.member, trial.parent] if populated else []
        writer.writerow([*row, *place, trial.attempts, seconds, trial.run, trial.message])
    return out.getvalue()
