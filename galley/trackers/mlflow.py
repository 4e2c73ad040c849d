"""MLflow: a tracking server by its URI, or a database in the tracker folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.tracking import MlflowClient

from galley.trackers.base import About, Tracker
from galley.urls import resolved

_TAG = "galley.run"
_MAX_PARAM = 500  # characters: older servers refuse longer ones


class MlflowTracker(Tracker):
    """One MLflow run, found again by the tag `galley.run`. Group and kind are tags too."""

    def __init__(self, about: About) -> None:
        uri = about.settings.uri
        self._client = MlflowClient(
            resolved("tracker.uri", uri) if uri else f"sqlite:///{about.folder}/mlflow.db"
        )
        experiment = self._client.get_experiment_by_name(about.settings.project)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(
                about.settings.project,
                artifact_location=None if about.settings.uri else about.folder.as_uri(),
            )
        )
        found = self._client.search_runs([number], f"tags.`{_TAG}` = '{about.id}'") if about.resumed else []
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {_TAG: about.id, "galley.kind": about.kind, **dict.fromkeys(about.settings.tags, "true")}
        if about.group:
            tags["galley.group"] = about.group
        self._id = self._client.create_run(number, tags=tags, run_name=about.name).info.run_id
        for name, value in _flat(about.config):
            self._client.log_param(self._id, name, str(value)[:_MAX_PARAM])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        body = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._id, body, f"{name}.json")

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        for name, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, f"galley.{name}", value)
            else:
                self._client.log_metric(self._id, f"summary/{name}", float(value))
        self._client.set_terminated(self._id, "FINISHED" if succeeded else "FAILED")


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested keys joined by dots."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
