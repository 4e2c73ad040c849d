"""What `parity` shows: the table, parity.json and parity.png."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from galley.report.parity import Comparison, Evidence, loss_deviations, norm_deviations, tolerance_of
from galley.report.plot import INK, MUTED, SERIES, STYLE
from galley.rundir import write_atomic
from galley.spec import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Equal values have no place on a logarithmic axis; they are drawn here.
_FLOOR = 1e-9
# A table in a file has no terminal to fit into.
_FILE_WIDTH = 120


@dataclass(frozen=True)
class Measured:
    """One run: the reference, whose `comparison` is null, or one that was compared with it."""

    evidence: Evidence
    result: RunResult
    run_dir: Path
    comparison: Comparison | None = None


def as_json(runs: Sequence[Measured], steps: int) -> dict[str, Any]:
    """`parity.json`; what is infinite or was not measured is null."""
    reference = runs[0]
    return {
        "within": all(run.comparison is None or run.comparison.within for run in runs),
        "reference": reference.evidence.strategy,
        "steps": steps,
        "tolerance": asdict(tolerance_of(reference.evidence)),
        "runs": [_run_json(run) for run in runs],
    }


def _run_json(run: Measured) -> dict[str, Any]:
    comparison, evidence = run.comparison, run.evidence
    body: dict[str, Any] = {
        "strategy": evidence.strategy,
        "state": run.result.state,
        "engaged": asdict(run.result.engaged) if run.result.engaged else None,
        "ranks": evidence.world_size,
        "accumulation": evidence.accumulation,
        "samples_per_s": run.result.samples_per_s,
        "peak_memory_gib": run.result.peak_memory_gib,
        "loss": list(evidence.losses),
        "grad_norm": list(evidence.grad_norms),
        "run_dir": str(run.run_dir),
    }
    if comparison is not None:
        weights = comparison.weights
        deviation = {
            "loss": comparison.loss,
            "grad_norm": comparison.grad_norm,
            "weights_rms": weights.rms if weights else inf,
            "weights_largest": weights.largest if weights else inf,
        }
        body["deviation"] = {name: value if isfinite(value) else None for name, value in deviation.items()}
        body["within"] = comparison.within
        body["first_step"] = comparison.first_step
        body["cause"] = asdict(comparison.cause) if comparison.cause else None
    return body


def show_table(runs: Sequence[Measured], steps: int, stream: IO[str]) -> None:
    """A row a run, the tolerances, and the probable cause of whatever exceeds them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _FILE_WIDTH)
    reference = runs[0].evidence
    title = f"largest deviation from {reference.strategy} in {steps} steps"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("strategy", no_wrap=True)
    for heading in ("loss", "grad norm", "weights rms", "weights max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("parity", "engine"):
        table.add_column(heading, no_wrap=True)
    table.add_column("samples/s", justify="right", no_wrap=True)
    for run in runs:
        table.add_row(*_cells(run))
    limits = tolerance_of(reference)
    table.add_section()
    table.add_row("tolerance", f"{limits.loss:.0e}", f"{limits.grad_norm:.0e}", f"{limits.weights:.0e}")
    console.print(table)
    for run in runs:
        if run.comparison is not None and run.comparison.cause is not None:
            cause, name = run.comparison.cause, run.evidence.strategy
            where = f" from step {run.comparison.first_step}" if run.comparison.first_step else ""
            console.print(
                f"{name} deviates{where}; probable cause: {cause.name}\n    {cause.explanation}",
                markup=False,
            )


def _cells(run: Measured) -> list[str]:
    engaged, speed, comparison = run.result.engaged, run.result.samples_per_s, run.comparison
    end = [
        engaged.engine if engaged else "",
        "" if speed is None else f"{speed:.1f}",
    ]
    if comparison is None:
        return [run.evidence.strategy, "", "", "", "", "reference", *end]
    weights = comparison.weights
    sizes = [comparison.loss, comparison.grad_norm]
    sizes += [weights.rms, weights.largest] if weights else []
    cells = [f"{size:.1e}" if isfinite(size) else "-" for size in sizes] + ["-"] * (4 - len(sizes))
    return [run.evidence.strategy, *cells, "yes" if comparison.within else "NO", *end]


def draw_parity(path: Path, runs: Sequence[Measured], title: str) -> Path:
    """Loss of every run on the left; deviations of loss and gradient norm, and tolerances, on the right."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(figsize=(12, 5.6))
        grid = figure.add_gridspec(
            2, 2, width_ratios=(1, 1.1), hspace=0.34, wspace=0.16,
            left=0.05, right=0.885, top=0.82, bottom=0.1,
        )  # fmt: skip
        _draw_losses(figure.add_subplot(grid[:, 0]), runs)
        limits = tolerance_of(runs[0].evidence)
        of = runs[0].evidence.strategy
        loss, norm = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
        _draw_deviations(loss, runs, "loss", limits.loss)
        _draw_deviations(norm, runs, "gradient norm", limits.grad_norm)
        loss.set_title(f"deviation of the loss from {of}", loc="left", fontsize=10.5, color=INK)
        norm.set_title("deviation of the gradient norm, relative", loc="left", fontsize=10.5, color=INK)
        norm.set_xlabel("step")
        figure.text(0.05, 0.935, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.05, 0.885, _verdict(runs), fontsize=10, color=MUTED, va="center")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    write_atomic(path, buffer.getvalue())
    return path


def _verdict(runs: Sequence[Measured]) -> str:
    beyond = [run for run in runs if run.comparison is not None and not run.comparison.within]
    if not beyond:
        return "every deviation is within the tolerance"
    causes = (run.comparison.cause for run in beyond if run.comparison)
    pairs = zip(beyond, causes, strict=True)
    return "   ·   ".join(f"{run.evidence.strategy}: {cause.name if cause else ''}" for run, cause in pairs)


def _draw_losses(axes: Axes, runs: Sequence[Measured]) -> None:
    """The reference as a broad line under the others, so that equal curves are seen to be equal."""
    for number, run in enumerate(runs):
        losses = run.evidence.losses
        look: dict[str, Any] = {"color": SERIES[(number - 1) % len(SERIES)], "linewidth": 1.4}
        look |= {"linestyle": ("-", (0, (5, 2)), (0, (1, 1.5)))[number % 3]}
        if number == 0:
            look = {"color": "#c3ccd6", "linewidth": 6, "solid_capstyle": "round"}
        axes.plot(range(1, len(losses) + 1), losses, label=run.evidence.strategy, **look)
    axes.set_title("training loss", loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel("step")
    axes.legend(frameon=False, loc="best")


def _draw_deviations(axes: Axes, runs: Sequence[Measured], kind: str, tolerance: float) -> None:
    """On a logarithmic axis; names stand at the right end of their lines, apart from each other."""
    reference, ends = runs[0].evidence, list[tuple[float, str, str]]()
    measure = loss_deviations if kind == "loss" else norm_deviations
    for number, run in enumerate(runs[1:]):
        values = [max(value, _FLOOR) for value in measure(reference, run.evidence) if isfinite(value)]
        color = SERIES[number % len(SERIES)]
        axes.plot(range(1, len(values) + 1), values, color=color, linewidth=1.4, marker="o", markersize=2.5)
        if values:
            ends.append((values[-1], run.evidence.strategy, color))
    axes.axhline(tolerance, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, _FLOOR / 2), max(high, tolerance * 10))
    ends.append((tolerance, "tolerance", INK))
    _name_lines(axes, ends)


def _name_lines(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels beside the axes, at least a tenth of its height apart, in the order of their lines."""
    to_axes = axes.transData + axes.transAxes.inverted()
    low = -1.0
    for value, name, color in sorted(ends):
        low = max(low + 0.1, float(to_axes.transform((0, value))[1]))
        axes.text(1.015, low, name, transform=axes.transAxes, color=color, va="center", fontsize=9.5)
