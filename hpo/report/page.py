"""The report as one self-contained HTML page."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpo.display import describe_estimate
from hpo.report.importance import importances
from hpo.study.values import ParetoFront, Trial

_HERE = Path(__file__).parent


def render(front: ParetoFront, params: Sequence[str], folder: Path) -> str:
    """Return the page. Its links to the runs are relative to `folder`, where the page will be."""
    parts = {
        "__TITLE__": html.escape(front.study),
        "__STYLE__": (_HERE / "page.css").read_text(),
        "__SCRIPT__": (_HERE / "page.js").read_text(),
        "__DATA__": _embed(page_data(front, params, folder)),
    }
    page = (_HERE / "page.html").read_text()
    for name, text in parts.items():  # data last: placeholders inside a user's text are not replaced
        page = page.replace(name, text)
    return page


def page_data(front: ParetoFront, params: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return what the page shows. Numbers that JSON lacks (NaN, infinity) are left out."""
    metrics = sorted({name for trial in front.trials for name in trial.metrics})
    succeeded = [trial for trial in front.trials if trial.state == "succeeded"]
    return {
        "study": front.study,
        "objectives": [asdict(objective) for objective in front.objectives],
        "params": list(params),
        "metrics": metrics,
        "directions": {**front.directions, **{o.metric: o.direction for o in front.objectives}},
        "trials": [_trial(_shown(front, trial), folder) for trial in front.trials],
        "front": list(front.front),
        "knee": front.knee,
        "chosen": front.chosen,
        "importances": {o.metric: importances(succeeded, params, o.metric) for o in front.objectives},
    }


def _shown(front: ParetoFront, trial: Trial) -> Trial:
    """Return the trial; with repeats, the trial that stands for a point has the means and says so."""
    estimate = front.estimate(trial.number)
    if estimate is None:
        return trial
    summary = describe_estimate(estimate, [objective.metric for objective in front.objectives])
    return replace(front.stands_for(trial.number), message=summary)


def _trial(trial: Trial, folder: Path) -> dict[str, Any]:
    """Return a trial as the page shows it."""
    metrics = {
        name: value for name, value in {**trial.metrics, **trial.values}.items() if math.isfinite(value)
    }
    href = os.path.relpath(trial.run, folder) if trial.run else ""
    return {
        **asdict(trial),
        "metrics": metrics,
        "values": None,
        "href": Path(href).as_posix() if href else "",
    }


def _embed(data: dict[str, Any]) -> str:
    """Return JSON that is safe in a <script> element: it can neither close it nor open a comment."""
    text = json.dumps(data, sort_keys=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
