"""A tracker that appends every number to one CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from galley.trackers.base import About, Tracker


class CsvTracker(Tracker):
    """Rows of step, name and value. `tracker.options.file` is the name of the file."""

    def __init__(self, about: About) -> None:
        name = about.settings.options.get("file", "metrics.csv")
        self._stream = (about.folder / name).open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._stream)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._rows.writerows([step, name, value] for name, value in values.items())

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Tables are left out."""

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        self._stream.close()
