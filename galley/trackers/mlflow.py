"""MLflow: a tracking server by its URI, or a database in the tracker folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from galley.system.locks import held
from galley.trackers.base import About, Tracker
from galley.trackers.names import encoded
from galley.urls import resolved

log = logging.getLogger("galley")

_TAG = "galley.run"
_RENAMED = "galley.renamed"  # tag: JSON of names as they are at MLflow -> as they are in the run
_MAX_PARAM = 500  # characters: older servers refuse longer ones
_MAX_TAG = 5000
_AT_ONCE = 100  # parameters of one request: the server's limit
_SQLITE = "sqlite:///"


class MlflowTracker(Tracker):
    """One MLflow run, found again by the tag `galley.run`. Group and kind are tags too.

    Names that MLflow does not take are sent as `galley.trackers.names` writes them; the tag
    `galley.renamed` has the original ones.
    """

    def __init__(self, about: About) -> None:
        uri = about.settings.uri
        self._uri = resolved("tracker.uri", uri) if uri else f"{_SQLITE}{about.folder}/mlflow.db"
        self._renamed: dict[str, str] = {}
        with self._alone():  # two processes cannot create the tables of one database
            self._client = MlflowClient(self._uri)
            experiment = self._experiment(about.settings.project)
            found = self._find(experiment, about) if about.resumed else None
            self._id = found or self._create(experiment, about)
        self._say_renamed(list(self._renamed))

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        database = self._database()
        place = None if database is None else database.parent.absolute().as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))

    def _find(self, experiment: str, about: About) -> str | None:
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{about.id}'")
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        self._renamed = json.loads(found[0].data.tags.get(_RENAMED, "{}"))
        return str(found[0].info.run_id)

    def _create(self, experiment: str, about: About) -> str:
        """A new run with its parameters; a run that cannot be told them is closed."""
        tags = {_TAG: about.id, "galley.kind": about.kind}
        tags |= {self._name(tag): "true" for tag in about.settings.tags}
        if about.group:
            tags["galley.group"] = about.group
        told = flat(about.config).items()
        params = [Param(self._name(name), str(value)[:_MAX_PARAM]) for name, value in told]
        run = self._client.create_run(experiment, tags=tags, run_name=about.name).info.run_id
        try:
            for first in range(0, len(params), _AT_ONCE):
                self._client.log_batch(run, params=params[first : first + _AT_ONCE])
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        return str(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        known, now = len(self._renamed), int(time.time() * 1000)
        metrics = [Metric(self._name(name), value, now, step) for name, value in values.items()]
        with self._alone():
            self._client.log_batch(self._id, metrics=metrics)
        self._say_renamed(list(self._renamed)[known:])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        body = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._id, body, f"{name}.json")

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        now = int(time.time() * 1000)
        texts = {name: value for name, value in summary.items() if isinstance(value, str)}
        tags = [RunTag(self._name(f"galley.{name}"), value[:_MAX_TAG]) for name, value in texts.items()]
        numbers = {name: float(value) for name, value in summary.items() if not isinstance(value, str)}
        metrics = [Metric(self._name(f"summary/{name}"), value, now, 0) for name, value in numbers.items()]
        with self._alone():
            try:
                self._client.log_batch(self._id, metrics=metrics, tags=tags)
            finally:
                self._client.set_terminated(self._id, "FINISHED" if succeeded else "FAILED")

    def _name(self, name: str) -> str:
        made = encoded(name)
        if made != name:
            self._renamed.setdefault(made, name)
        return made

    def _say_renamed(self, made: Sequence[str]) -> None:
        """Once for each name, in the log and as the run's tag."""
        if not made:
            return
        said = ", ".join(f"'{self._renamed[name]}' as '{name}'" for name in made)
        log.warning("tracker: MLflow does not take some names; it has %s", said)
        kept = dict(self._renamed)
        while len(text := json.dumps(kept)) > _MAX_TAG:
            kept.popitem()
        with self._alone():
            self._client.set_tag(self._id, _RENAMED, text)

    def _database(self) -> Path | None:
        """The file of an SQLite database."""
        return Path(self._uri.removeprefix(_SQLITE)) if self._uri.startswith(_SQLITE) else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Trials of a sweep share a database: SQLite gives up where it waits for others too long."""
        database = self._database()
        if database is None:
            yield
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        with held(database.with_name(f"{database.name}.lock")):
            yield


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys joined by dots. Where two would be one, the dots of a key itself are written out."""
    found: dict[str, Any] = {}
    for path, value in _leaves(config, ()):
        name = ".".join(path)
        found[name if name not in found else ".".join(part.replace(".", "_x2E_") for part in path)] = value
    return found


def _leaves(config: Mapping[str, Any], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in config.items():
        path = (*prefix, str(name))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value
