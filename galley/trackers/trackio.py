"""Trackio: W&B's calls on a local database, shown by `trackio show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import trackio

from galley.trackers.base import About, Tracker


class TrackioTracker(Tracker):
    """One Trackio run; the id keeps two runs of one name apart."""

    def __init__(self, about: About) -> None:
        self._run: Any = trackio.init(
            project=about.settings.project,
            name=f"{about.name}-{about.id}",
            group=about.group,
            config=about.config,
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        trackio.log(dict(values), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        frame = import_module("pandas").DataFrame([list(row) for row in rows], columns=list(columns))
        trackio.log({name: trackio.Table(dataframe=frame)})

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        numbers = {f"summary/{name}": value for name, value in summary.items() if not isinstance(value, str)}
        trackio.log(numbers)
        trackio.finish()
