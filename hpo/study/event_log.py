"""The journal of a study: all of its state, one JSON line per event, appended and never changed.

An event is on the disk before anything is done that it describes, or that follows from it. A killed writer
leaves at most a last line without its end; that line counts as never written. Each line ends
with the checksum of its content, so that a changed digit is noticed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from galley.errors import ConfigError, Problem
from galley.paths import command_of
from galley.schema import Recipe
from galley.spec import CodeSnapshot
from galley.system.locks import lock, unlock
from hpo.study.values import Params, TrialState


@dataclass(frozen=True)
class Begun:
    """The study: what was requested, and with which code.

    Attributes:
        words: the overrides of the command; followed by a trial's parameters, they compose its recipe.
        config_dirs: the user's folders of recipes and config groups.
        recipe: what the words composed to, to notice if they compose to something else later.
        points: are tried first (`hpo.points`), as they were in the file then.
    """

    name: str
    words: list[str]
    config_dirs: list[str]
    recipe: Recipe
    code: CodeSnapshot
    time: float
    points: list[Params] = field(default_factory=list)
    event: Literal["begun"] = "begun"
    version: int = 2


@dataclass(frozen=True)
class Asked:
    """A trial and its parameters. From this event on the trial exists.

    Attributes:
        controller: the one that runs the trial, by the name of its lease.
        member, parent: as in `Trial`.
    """

    number: int
    params: Params
    time: float
    repeat_of: int | None = None
    controller: str = ""
    member: int | None = None
    parent: int | None = None
    event: Literal["asked"] = "asked"


@dataclass(frozen=True)
class Adopted:
    """A trial whose controller is dead belongs to another one."""

    number: int
    controller: str
    time: float
    event: Literal["adopted"] = "adopted"


@dataclass(frozen=True)
class Retried:
    """An attempt of a trial failed, and another one is made.

    Attributes:
        attempt: the one that failed.
        counted: whether it counts against `hpo.retries`.
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
    """Somebody cancelled the study; running trials are ended."""

    time: float
    event: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True)
class Extended:
    """The study gets more trials than it was begun with."""

    trials: int
    time: float
    event: Literal["extended"] = "extended"


@dataclass(frozen=True)
class Resumed:
    """The study was resumed."""

    time: float
    event: Literal["resumed"] = "resumed"


Event = Begun | Asked | Adopted | Retried | Ended | Cancelled | Resumed | Extended
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
SEALED_SINCE = 2  # the version of a journal whose lines end with a checksum
_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')


class EventLog:
    """Appends events, and reads those of other controllers.

    Controllers that share a study take turns: whoever appends holds the turn, and has read everything before.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._offset, self._lines = 0, 0  # bytes and lines that were read or appended here
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)  # so that the name of a new file is on the disk, too
        os.close(folder)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep others from appending. Cuts off an unfinished last line of a killed writer."""
        lock(self._descriptor)
        try:
            # Only with the lock: otherwise an unfinished line may be one that another controller is writing.
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)
            yield
        finally:
            unlock(self._descriptor)

    def has_news(self) -> bool:
        """Return whether there is anything that was neither read nor appended here."""
        return os.fstat(self._descriptor).st_size != self._offset

    def read(self) -> list[Event]:
        """Return the whole events that were neither read nor appended here.

        Raises `ConfigError` that names the line which is no event.
        """
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            lines = stream.read().splitlines(keepends=True)
        # A last line without its end may still be in writing, or was left by a killed writer.
        lines = [line for line in lines if line.endswith(b"\n")]
        events = [_read(self._path, self._lines + n, line[:-1]) for n, line in enumerate(lines, 1)]
        self._offset += sum(map(len, lines))
        self._lines += len(lines)
        return events

    def append(self, event: Event) -> None:
        """Append the event. It is on the disk when this returns. Only in a turn, with everything read."""
        left = sealed(event) + b"\n"
        self._offset += len(left)
        self._lines += 1
        while left:
            left = left[os.write(self._descriptor, left) :]
        os.fsync(self._descriptor)

    @property
    def last_line(self) -> int:
        """Return the number of the last line that was read or appended here, from 1."""
        return self._lines

    def close(self) -> None:
        os.close(self._descriptor)


def read_journal(path: Path) -> list[Event]:
    """Return all whole events. Changes nothing, and needs no lock.

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


def sealed(event: Event) -> bytes:
    """Return the event's JSON object, whose last member is the CRC-32 of the object without that member."""
    text = json.dumps(asdict(event), ensure_ascii=False, allow_nan=False).encode()
    return text[:-1] + b', "crc32": "%08x"}' % zlib.crc32(text)


def _read(path: Path, number: int, line: bytes) -> Event:
    """Read one line. Raises `ConfigError` if it was changed, or is no event."""
    seal = _SEAL.search(line)
    if seal is not None and zlib.crc32(line[: seal.start()] + b"}") != int(seal[1], 16):
        raise broken(path, number, "was changed: its checksum is that of another line")

    try:
        event = _EVENTS.validate_json(line)
    except ValueError as error:
        raise broken(path, number, "is not an event of a study", str(error).splitlines()[0]) from error

    if seal is None and isinstance(event, Begun) and event.version < SEALED_SINCE:
        study = path.parent
        resume_command = f"{command_of(study / 'code')} resume {shlex.quote(str(study))}"
        raise ConfigError(
            Problem(
                str(path),
                "is of an earlier version, whose lines have no checksums",
                f"go on with: {resume_command}",
            )
        )
    if seal is None:
        raise broken(path, number, "was changed: it has no checksum")
    return event


def broken(path: Path, number: int, what: str, detail: str = "") -> ConfigError:
    """Return the error for a changed line: nothing is guessed, and nothing is written."""
    reason = f" ({detail})" if detail else ""
    hint = "nothing was changed; restore the file, or delete this line and all behind it to go on from there"
    return ConfigError(Problem(f"{path}:{number}", f"{what}{reason}", hint))
