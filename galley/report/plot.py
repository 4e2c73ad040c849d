"""A run in one picture: `result.png`."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galley.report.summary import describe_run
from galley.rundir import RunFolder, write_atomic
from galley.spec import RunResult, RunSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE = "#1d6fb8", "#d9822b"
SERIES = ("#0f8a6d", "#b5427a", "#6b55b8", "#c2591b", "#3f7d20", "#8a6d0f")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}

Points = tuple[list[float], list[float]]


def draw(folder: RunFolder) -> Path | None:
    """Write the picture of training loss, evaluation and learning rate; None without any metrics."""
    rows = list(folder.read_metrics())
    loss = points(rows, "loss")
    names = sorted({key for row in rows for key in row if key.startswith("eval/")})
    evaluations = {name: found for name in names if (found := points(rows, name))[0]}
    if not loss[0] and not evaluations:
        return None
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import rc_context

    with rc_context(STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = _figure(folder.read_spec(), folder.read_result(), loss, points(rows, "lr"), evaluations)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    write_atomic(folder.picture, buffer.getvalue())
    return folder.picture


def points(rows: Sequence[dict[str, Any]], key: str) -> Points:
    """(steps, values) of the rows with a finite `key`; a step that a resumed run repeats counts once."""
    told = ((float(row["step"]), row.get(key)) for row in rows)
    found = {step: float(value) for step, value in told if value is not None and isfinite(value)}
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def smooth(values: Sequence[float]) -> list[float]:
    """Means under a Gaussian as wide as a fortieth of the curve; they neither lag nor bend at the ends."""
    from numpy import arange, convolve, exp, ones

    width = min(max(1.0, len(values) / 40), 200.0)
    reach = int(3 * width)
    kernel = exp(-0.5 * (arange(-reach, reach + 1) / width) ** 2)
    inside = slice(reach, reach + len(values))
    means: list[float] = (
        convolve(values, kernel)[inside] / convolve(ones(len(values)), kernel)[inside]
    ).tolist()
    return means


def _figure(
    spec: RunSpec, result: RunResult | None, loss: Points, rate: Points, evaluations: dict[str, Points]
) -> Figure:
    """Loss over learning rate on the left, evaluation on the right, if there is any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6) if evaluations else (7.5, 5.6))
    left = 0.05 if evaluations else 0.09
    grid = figure.add_gridspec(
        2, 2 if evaluations else 1, height_ratios=(4, 1), hspace=0.24, wspace=0.13,
        left=left, right=0.87 if evaluations else 0.97, top=0.81, bottom=0.09,
    )  # fmt: skip
    top = figure.add_subplot(grid[0, 0])
    bottom = figure.add_subplot(grid[1, 0], sharex=top)
    top.tick_params(labelbottom=False)
    _draw_loss(top, loss)
    _draw_rate(bottom, rate)
    if evaluations:
        _draw_evaluations(figure.add_subplot(grid[:, 1]), evaluations)
    figure.text(left, 0.945, describe_run(spec), fontsize=15, fontweight="bold", va="center")
    figure.text(left, 0.893, _subtitle(result), fontsize=10, color=MUTED, va="center")
    return figure


def _subtitle(result: RunResult | None) -> str:
    if result is None:
        return ""
    rate = f"{result.samples_per_s:.1f} samples/s" if result.samples_per_s is not None else ""
    metrics = [f"{key.removeprefix('eval/')} {value:.3f}" for key, value in sorted(result.metrics.items())
               if key.startswith("eval/")]  # fmt: skip
    parts = [result.state, f"{result.steps} steps", rate, *metrics]
    return "   ·   ".join(part for part in parts if part)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10.5, color=INK, pad=8)


def _draw_loss(axes: Axes, loss: Points) -> None:
    steps, values = loss
    _title(axes, "Training loss")
    if len(values) < 8:
        axes.plot(steps, values, color=BLUE, linewidth=2.2, marker="o", markersize=4)
    else:
        axes.plot(steps, values, color=BLUE, linewidth=1, alpha=0.28)
        axes.plot(steps, smooth(values), color=BLUE, linewidth=2.2, solid_capstyle="round")
    axes.margins(x=0.02)


def _draw_rate(axes: Axes, rate: Points) -> None:
    """Only the peak is given as a number: the shape tells the rest."""
    from matplotlib.ticker import MaxNLocator

    steps, values = rate
    axes.fill_between(steps, values, color=ORANGE, alpha=0.15, linewidth=0)
    axes.plot(steps, values, color=ORANGE, linewidth=1.6)
    peak = max(values, default=0.0)
    _title(axes, f"Learning rate, at most {peak:.3g}")
    axes.set_xlabel("optimizer step")
    axes.set_ylim(0, peak * 1.15 or 1.0)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlim(left=0)


def _draw_evaluations(axes: Axes, evaluations: dict[str, Points]) -> None:
    """Every metric but the loss, each line named at its end."""
    from matplotlib.ticker import MaxNLocator

    scores = {name: found for name, found in evaluations.items() if name != "eval/loss"} or evaluations
    _title(axes, "Evaluation")
    for color, (steps, values) in zip(SERIES * len(scores), scores.values(), strict=False):
        axes.plot(steps, values, color=color, linewidth=2, marker="o", markersize=4.5)
    axes.margins(x=0.04, y=0.12)
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlim(left=0)
    _name_lines(axes, scores)


def _name_lines(axes: Axes, scores: dict[str, Points]) -> None:
    """Names and last values right of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    ends = sorted((values[-1], name, color) for color, (name, (_, values)) in
                  zip(SERIES * len(scores), scores.items(), strict=False))  # fmt: skip
    place = low
    for value, name, color in ends:
        place = max(value, place + gap)
        axes.annotate(
            f"{name.removeprefix('eval/')}  {value:.3f}",
            xy=(1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            color=color, va="center", fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(low, high)
