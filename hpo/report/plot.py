"""Draw the front as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.study.values import ParetoFront, Trial

_COLORS = {"other": "#9aa5c4", "front": "#d6336c", "knee": "#e8890c", "chosen": "#0b7a53"}


def draw(front: ParetoFront, path: Path) -> None:
    """Draw every pair of objectives in its own panel; a single objective over the trials' numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [objective.metric for objective in front.objectives]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] or [("trial", names[0])]
    figure = Figure(figsize=(5.2 * len(pairs), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        _panel(axes, front, x, y)
    figure.suptitle(front.study)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, front: ParetoFront, x: str, y: str) -> None:
    kinds = dict.fromkeys(front.front, "front")
    kinds |= {
        number: kind
        for number, kind in ((front.knee, "knee"), (front.chosen, "chosen"))
        if number is not None
    }

    for kind, color in _COLORS.items():
        points = [
            (_value(front.stands_for(trial.number), x), _value(front.stands_for(trial.number), y))
            for trial in front.trials
            if kinds.get(trial.number, "other") == kind
        ]
        shown = [point for point in points if None not in point]
        if shown:
            axes.scatter(
                *zip(*shown, strict=True), c=color, s=46 if kind != "other" else 22, label=kind, zorder=3
            )

    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _value(trial: Trial, name: str) -> float | None:
    return float(trial.number) if name == "trial" else trial.values.get(name, trial.metrics.get(name))
