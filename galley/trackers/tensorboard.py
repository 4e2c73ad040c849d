"""TensorBoard event files, by tensorboardX: it needs neither TensorBoard nor torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import SummaryWriter

from galley.trackers.base import About, Tracker


class TensorboardTracker(Tracker):
    """Events in the run's tracker folder; one further file an attempt."""

    def __init__(self, about: About) -> None:
        self._writer = SummaryWriter(str(about.folder), flush_secs=10)
        self._writer.add_text("config", _code(json.dumps(about.config, indent=2, sort_keys=True)), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
        self._writer.add_text(name, text, 0)

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        self._writer.add_text("summary", _code(json.dumps(dict(summary), indent=2, sort_keys=True)), 0)
        self._writer.close()


def _code(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
