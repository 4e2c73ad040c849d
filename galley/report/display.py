"""What a person sees while a run lives.

A terminal gets one live line; anything else gets plain lines, one for each change of phase and
for each row of metrics, at most one a second.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from galley.json_numbers import row_from_json
from galley.rundir import RunFolder
from galley.spec import Progress

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_INTERVAL_S = 1.0
_PHASES = {
    "queued": "waiting in the queue",
    "starting": "starting the processes",
    "data": "preparing the data",
    "model": "loading the model",
    "train": "training",
    "eval": "evaluating",
    "save": "saving",
    "done": "done",
}

Row = Mapping[str, Any]


class MetricsTail:
    """The rows that are appended to metrics.jsonl from now on, read once each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> Iterator[dict[str, Any]]:
        """New whole rows. A file that shrank (a resumed run drops rows) is read on from its end."""
        if not self._path.exists():
            return
        size = self._path.stat().st_size
        if size <= self._offset:
            self._offset = size
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield row_from_json(line)


class Display(ABC):
    """Shows one attempt of a run. A context manager: whatever happens, the terminal is left as it was."""

    def __init__(self, folder: RunFolder, attempt: int) -> None:
        self._folder = folder
        self._attempt = attempt
        self._tail = MetricsTail(folder.metrics_file)
        self._training_since: tuple[float, int] | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, queued: bool = False) -> None:
        """Show what has changed; call it about ten times a second. A scheduler may restart the attempt."""
        progress = self._folder.read_progress()
        if progress is None or progress.attempt < self._attempt or queued:
            progress = Progress("queued" if queued else "starting", 0, 0, self._attempt, time.time())
        if progress.phase == "train" and self._training_since is None:
            self._training_since = (time.time(), progress.step)
        self._show(progress, list(self._tail.read()))

    @abstractmethod
    def close(self) -> None:
        """Show what is left, and stop."""

    @abstractmethod
    def _show(self, progress: Progress, rows: list[dict[str, Any]]) -> None: ...

    def _eta_s(self, step: int, max_steps: int) -> float | None:
        """Seconds to the last step at the mean pace so far, evaluation and saving included."""
        if self._training_since is None or max_steps <= 0:
            return None
        since, first = self._training_since
        done = step - first
        return (time.time() - since) / done * max(0, max_steps - step) if done > 0 else None


class PlainDisplay(Display):
    """Lines for a pipe, a file or a log."""

    def __init__(self, folder: RunFolder, attempt: int, stream: IO[str]) -> None:
        super().__init__(folder, attempt)
        self._stream = stream
        self._phase = ""
        self._row: Row | None = None
        self._written = 0.0

    def _show(self, progress: Progress, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if is_evaluation(row):
                self._line(f"step {row.get('step', '?')}  {format_metrics(row)}")
            elif "loss" in row:
                self._row = row
        if self._row is not None and time.monotonic() - self._written >= PLAIN_INTERVAL_S:
            self._line(self._describe(self._row, progress))
            self._row, self._written = None, time.monotonic()
        if progress.phase != self._phase and not {progress.phase, self._phase} <= {"train", "eval"}:
            self._line(_PHASES.get(progress.phase, progress.phase))
        self._phase = progress.phase

    def close(self) -> None:
        if self._row is not None:
            self._line(self._describe(self._row, Progress("train", 0, 0, self._attempt, time.time())))
            self._row = None

    def _describe(self, row: Row, progress: Progress) -> str:
        step = f"{row.get('step', '?')}" + (f"/{progress.max_steps}" if progress.max_steps else "")
        eta = self._eta_s(int(row.get("step", 0)), progress.max_steps)
        parts = [f"step {step}", *_row_parts(row), *([f"ETA {format_s(eta)}"] if eta is not None else [])]
        return "  ".join(parts)

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveDisplay(Display):
    """One line on a terminal that is redrawn; evaluations scroll by above it."""

    def __init__(self, folder: RunFolder, attempt: int, console: Console) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        super().__init__(folder, attempt)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task(_PHASES["starting"], total=None, detail="")
        self._row: Row = {}
        self._bar.start()

    def _show(self, progress: Progress, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if is_evaluation(row):
                self._bar.console.print(f"[dim]step {row.get('step', '?'):>6}[/dim]  {format_metrics(row)}")
            elif "loss" in row:
                self._row = row
        step = max(progress.step, int(self._row.get("step", 0)))
        self._bar.update(
            self._task,
            description=_PHASES.get(progress.phase, progress.phase),
            total=progress.max_steps or None,
            completed=step,
            detail=self._detail(step, progress.max_steps),
        )

    def _detail(self, step: int, max_steps: int) -> str:
        eta = self._eta_s(step, max_steps)
        parts = [
            f"{step}/{max_steps}" if max_steps else "",
            *_row_parts(self._row, with_rate=False),
            *_rate(self._row),
            f"ETA {format_s(eta)}" if eta is not None else "",
        ]
        return " · ".join(part for part in parts if part)

    def close(self) -> None:
        self._bar.stop()


def make_display(folder: RunFolder, attempt: int, stream: IO[str]) -> Display:
    """Live where `stream` is a terminal that can redraw a line, plain otherwise."""
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from rich.console import Console

        return LiveDisplay(folder, attempt, Console(file=stream))
    return PlainDisplay(folder, attempt, stream)


def is_evaluation(row: Row) -> bool:
    return any(key.startswith("eval/") for key in row)


def format_metrics(row: Row) -> str:
    """`eval/f1 0.8712  eval/accuracy 0.8137`"""
    metrics = {key: value for key, value in row.items() if key.startswith("eval/")}
    return "  ".join(f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))


def _row_parts(row: Row, with_rate: bool = True) -> list[str]:
    parts = []
    if isinstance(row.get("loss"), int | float):
        parts.append(f"loss {row['loss']:.4f}")
    if with_rate and isinstance(row.get("lr"), int | float):
        parts.append(f"lr {row['lr']:.2e}")
    return [*parts, *_rate(row)] if with_rate else parts


def _rate(row: Row) -> list[str]:
    rate = row.get("samples_per_s")
    return [f"{rate:.1f} samples/s"] if isinstance(rate, int | float) else []


def format_s(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
