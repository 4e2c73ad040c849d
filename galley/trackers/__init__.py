"""Trackers by name, and the guard that keeps their failures from the run.

Each library is imported in one module of this package, when a recipe asks for it, by the main rank.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from galley.errors import Problem
from galley.quoting import shell_word
from galley.registry import TRACKERS
from galley.rundir import RunFolder, write_atomic
from galley.schema import Recipe
from galley.schema import Tracker as Settings
from galley.schema.launcher_traits import traits
from galley.spec import RunResult, RunSpec
from galley.trackers.base import About, Tracker
from galley.urls import cleaned, url_problem, variable

log = logging.getLogger("galley")


class Tracking:
    """A tracker that cannot hurt the run: its first failure is logged, and ends the tracking. What was opened
    is closed all the same."""

    def __init__(self, make: Callable[[], Tracker] | None, uri: str | None = None) -> None:
        """`uri`: of the tracker, `tracker.uri`; a message is cleaned of its credentials."""
        self._uri = uri
        self._tracker: Tracker | None = None
        self._has_failed = False
        if make is not None:
            self._guard("open", lambda: setattr(self, "_tracker", make()))

    def log(self, step: int, row: Mapping[str, float | int | None]) -> None:
        """The numbers of one row of metrics.jsonl."""
        values = {name: float(v) for name, v in row.items() if v is not None and name != "step"}
        self._call("log", lambda tracker: tracker.log(step, values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._call("table", lambda tracker: tracker.table(name, columns, rows))

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        """Once; later calls do nothing."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._guard("finish", lambda: tracker.finish(summary, succeeded))

    def _call(self, what: str, action: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is not None and not self._has_failed:
            self._guard(what, lambda: action(tracker))

    def _guard(self, what: str, action: Callable[[], None]) -> None:
        """The process boundary between training and what somebody else's library may raise."""
        try:
            action()
        except Exception as error:  # noqa: BLE001
            if not self._has_failed:  # what follows from the first failure is no news
                said = self._cleaned(f"{type(error).__name__}: {error}")
                log.warning("tracker: cannot %s, goes on without it: %s", what, said)
            self._has_failed = True

    def _cleaned(self, text: str) -> str:
        name = variable(self._uri)
        return cleaned(text, os.environ.get(name) if name else self._uri)


def track_run(spec: RunSpec, folder: RunFolder, is_main: bool) -> Tracking:
    """The tracking of one attempt; silent on every rank but the main one, and under `tracker=none`."""
    settings = spec.recipe.tracker
    if settings.kind == "none" or not is_main:
        return Tracking(None)
    return Tracking(lambda: _make(about_run(spec, folder)), settings.uri)


def track_study(recipe: Recipe, name: str, folder: Path) -> Tracking:
    """The run that sums a sweep up; its trials are in the group of the same name."""
    settings = recipe.tracker
    if settings.kind == "none":
        return Tracking(None)

    def make() -> Tracker:
        config = _without_values(asdict(recipe))
        id_, resumed = _run_id(folder / "tracker")
        return _make(About(id_, name, name, "study", folder / "tracker", config, settings, resumed))

    return Tracking(make, settings.uri)


def of_trial(settings: Settings, study: str, number: int, folder: Path | None) -> Settings:
    """The settings of a trial's own run, which stands with the others of its study under the study's name.

    `folder`: of the study; null if the trials run where this path is another folder, or none.
    """
    group = settings.group or study
    found = replace(settings, name=f"{study}-{number:04d}", group=group)
    if settings.kind != "mlflow" or settings.uri is not None or folder is None:
        return found
    return replace(found, uri=f"sqlite:///{folder / 'tracker'}/mlflow.db")  # one for all, as `track_study`


def about_run(spec: RunSpec, folder: RunFolder) -> About:
    """Reads, or draws and keeps, the id of the run."""
    settings = spec.recipe.tracker
    config = _without_values(asdict(spec.recipe))
    config |= {"layout": asdict(spec.layout), "sha256": spec.sha256, "code": asdict(spec.code)}
    id_, resumed = _run_id(folder.tracker)
    name = settings.name or folder.root.name
    return About(id_, name, settings.group, "train", folder.tracker, config, settings, resumed)


def summary_of(result: RunResult) -> dict[str, float | int | str]:
    """The plain values of a result; metrics under their own names."""
    plain = {name: value for name, value in asdict(result).items() if isinstance(value, str | int | float)}
    return {**plain, **result.metrics}


def tracker_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong with the tracker's address."""
    key, uri = "tracker.uri", recipe.tracker.uri
    yield from filter(None, [url_problem(key, uri)])
    name, forwarded = variable(uri), recipe.launcher.forward_env
    if name is not None and name not in forwarded:
        hint = shell_word(["launcher", "forward_env"], [*forwarded, name])
        yield Problem(f"{key}={uri}", f"the ranks do not get the variable '{name}'", hint)
    elif name is not None and traits(recipe).inherits_environment and not os.environ.get(name):
        yield Problem(f"{key}={uri}", f"the variable '{name}' is not set", f"export {name}=URL")


def _make(about: About) -> Tracker:
    about.folder.mkdir(parents=True, exist_ok=True)
    tracker: Tracker = TRACKERS.load(about.settings.kind, Tracker)(about)
    return tracker


def _run_id(folder: Path) -> tuple[str, bool]:
    """The id that this folder keeps, and whether it was there before."""
    file = folder / "id"
    if file.exists():
        return file.read_text().strip(), True
    new = hashlib.sha256(uuid.uuid4().bytes).hexdigest()[:12]
    write_atomic(file, new + "\n")
    return new, False


def _without_values(config: dict[str, Any]) -> dict[str, Any]:
    """Variables of the environment may be secrets: their names are told, their values are not."""
    config["launcher"]["env"] = sorted(config["launcher"]["env"])
    return config
