"""The tracker seam: where a run's metrics go besides metrics.jsonl."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galley.schema import Tracker as Settings


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run before its first metric.

    Attributes:
        id: kept over all attempts of the run.
        group: the study that the run is a trial of; null for a run of its own.
        kind: `train`, or `study` for the summary of a sweep.
        folder: for what the tracker writes on this machine.
        config: everything that decides the run; of secrets, the names.
        resumed: an earlier attempt has reported under this id.
    """

    id: str
    name: str
    group: str | None
    kind: str
    folder: Path
    config: dict[str, Any]
    settings: Settings
    resumed: bool


class Tracker(ABC):
    """One run at one tracker. The constructor opens it. Any method may raise anything."""

    @abstractmethod
    def __init__(self, about: About) -> None: ...

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after `step`; a resumed run may tell a step again, with the same values."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table that belongs to the run as a whole."""

    @abstractmethod
    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        """The last call: everything is written when it returns."""
