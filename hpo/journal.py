"""The journal of a study: all of its state, one JSON line an event, appended and never changed.

An event is on the disk before anything is done that it speaks of, or that follows from it. A writer that
was killed leaves at most a last line without its end; that line is as if never written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from galley.spec import CodeSnapshot
from hpo.values import Params, TrialState


@dataclass(frozen=True)
class Begun:
    """The study: what is asked for, and with which code.

    Attributes:
        words: the overrides of the command; with a trial's parameters behind them they compose its recipe.
        config_dirs: the user's folders of recipes and config groups.
        recipe: what the words composed to, to notice when they no longer do.
    """

    name: str
    words: list[str]
    config_dirs: list[str]
    recipe: Recipe
    code: CodeSnapshot
    time: float
    event: Literal["begun"] = "begun"
    version: int = 1


@dataclass(frozen=True)
class Asked:
    """A trial and its parameters; from here on it exists."""

    number: int
    params: Params
    time: float
    repeat_of: int | None = None
    event: Literal["asked"] = "asked"


@dataclass(frozen=True)
class Retried:
    """An attempt of a trial failed, and another one is made.

    Attributes:
        attempt: the one that failed.
        counted: it counts against `hpo.retries`.
    """

    number: int
    attempt: int
    failure_class: str
    message: str
    time: float
    counted: bool = True
    event: Literal["retried"] = "retried"


@dataclass(frozen=True)
class Ended:
    """A trial has ended for good."""

    number: int
    state: TrialState
    time: float
    values: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    feasible: bool = True
    message: str = ""
    attempts: int = 0
    event: Literal["ended"] = "ended"


@dataclass(frozen=True)
class Cancelled:
    """Somebody ended the study; what runs is taken down."""

    time: float
    event: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True)
class Resumed:
    """The study goes on."""

    time: float
    event: Literal["resumed"] = "resumed"


Event = Begun | Asked | Retried | Ended | Cancelled | Resumed
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Journal:
    """Appends. One writer at a time: `hpo.folder` holds the lock."""

    def __init__(self, path: Path) -> None:
        """Cuts off a last line that a killed writer left without its end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._descriptor).st_size
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._descriptor, whole)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)  # the name of a new file is on the disk too
        os.close(folder)

    def append(self, event: Event) -> None:
        """Returns once the event is on the disk."""
        line = json.dumps(asdict(event), ensure_ascii=False, allow_nan=False) + "\n"
        left = line.encode()
        while left:
            left = left[os.write(self._descriptor, left) :]
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_journal(path: Path) -> list[Event]:
    """All whole events. Changes nothing, and needs no lock.

    Raises `ConfigError` that names the line which is no event.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            Problem(str(path.parent), "is not a study", f"{path.name}: {error.strerror}")
        ) from error
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [_read(path, number, line) for number, line in enumerate(lines, 1)]


def _read(path: Path, number: int, line: bytes) -> Event:
    try:
        return _EVENTS.validate_json(line)
    except ValueError as error:
        raise broken(path, number, "is not an event of a study", str(error).splitlines()[0]) from error


def broken(path: Path, number: int, what: str, detail: str = "") -> ConfigError:
    """A line that somebody changed: nothing is guessed, and nothing is written."""
    reason = f" ({detail})" if detail else ""
    hint = "nothing was changed; restore the file, or delete this line and all behind it to go on from there"
    return ConfigError(Problem(f"{path}:{number}", f"{what}{reason}", hint))
