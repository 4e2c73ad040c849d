"""What a person sees when a run has ended: a table, or what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from galley.counting import counted
from galley.report.display import format_s
from galley.rundir import RunFolder
from galley.spec import RunResult, RunSpec

# Of the other classes the message says all; a traceback would bury it.
_WITH_TRACEBACK = frozenset({"user", "oom", "hang", "node"})


def show_result(
    folder: RunFolder, spec: RunSpec, result: RunResult, picture: Path | None, stream: IO[str]
) -> None:
    """The table at the end of a run. The folder is the last line, unwrapped: it can be copied."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream)
    table = Table(show_header=False)
    for name, value in _result_rows(result):
        table.add_row(name, value)
    console.print(describe_run(spec), style="bold", highlight=False)
    console.print(table)
    if picture is not None:
        console.print(str(picture), markup=False, highlight=False, soft_wrap=True)
    console.print(str(folder.root), markup=False, highlight=False, soft_wrap=True)


def describe_run(spec: RunSpec) -> str:
    """`mrpc_deberta · zero2 · 2 ranks on cpu`"""
    size = spec.layout.world_size
    ranks = counted(size, "rank")
    return f"{spec.recipe.recipe} · {spec.recipe.strategy.name} · {ranks} on {spec.layout.device}"


def _result_rows(result: RunResult) -> Iterator[tuple[str, str]]:
    yield "state", result.state
    for key, value in sorted(result.metrics.items()):
        yield key, f"{value:.4f}"
    yield "steps", f"{result.steps}" + (f" ({result.epochs:.1f} epochs)" if result.epochs else "")
    if result.best_step is not None:
        yield "best step", f"{result.best_step}, to which the metrics and model/ belong"
    training = f" (training {format_s(result.train_s)})" if result.train_s else ""
    yield "time", format_s(result.wall_s) + training
    if result.samples_per_s is not None:
        yield "samples/s", f"{result.samples_per_s:.1f}"
    if result.peak_memory_gib is not None:
        yield "peak memory", f"{result.peak_memory_gib:.2f} GiB a rank"
    if result.engaged is not None:
        yield "engine", f"{result.engaged.engine} ({result.engaged.backend}, {result.engaged.precision})"
    if result.resumed_from is not None:
        yield "resumed from", result.resumed_from


def show_failure(result: RunResult, traceback: str, logs: list[Path], stream: IO[str]) -> None:
    """What went wrong: the first failed rank's `traceback`, or the message alone of a user's mistake."""
    failure = result.failure_class or "user"
    if traceback and failure in _WITH_TRACEBACK:
        print(f"\nrank {result.first_failed_rank} failed ({failure}):\n{traceback.rstrip()}", file=stream)
    else:
        print(f"\ngalley: the run failed ({failure}): {result.message}", file=stream)
    if logs:
        print(f"log: {logs[0]}", file=stream)
