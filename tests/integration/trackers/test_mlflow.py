"""MLflow's own database after names that it does not take, failures, and trials side by side."""

from __future__ import annotations

import json
import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from galley.rundir import RunFolder
from galley.schema import Recipe, Tracker
from galley.trackers import mlflow, of_trial, track_run, track_study
from tests.integration.train.tiny import tiny_recipe, tiny_spec
from tests.support import make_recipe

MLFLOW = tiny_recipe(tracker={"kind": "mlflow"})


def runs(database: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("galley")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def report(root: Path, asked: Recipe, loss: float) -> None:
    tracking = track_run(tiny_spec(asked, 1), RunFolder(root), is_main=True)
    for step in range(1, 6):
        tracking.log(step, {"loss": loss / step})
    tracking.finish({"state": "succeeded"}, succeeded=True)


def test_names_that_mlflow_does_not_take_are_sent_under_others_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"is it a question?": "label"}
    asked = make_recipe(MLFLOW, data={"columns": columns}, tracker={"tags": ["a@b"]}, launcher={"env": {}})
    folder = RunFolder(tmp_path / "run")
    with caplog.at_level(logging.WARNING, "galley"):
        tracking = track_run(tiny_spec(asked, 1), folder, is_main=True)
        for step in (1, 2):
            tracking.log(step, {"loss": 0.5, "eval/recall@5": step / 4})
        tracking.finish({"state": "succeeded", "eval/recall@5": 0.5}, succeeded=True)
    (run,) = runs(folder.tracker / "mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/recall_x40_5"] == 0.5
    assert run.data.metrics["summary/eval/recall_x40_5"] == 0.5
    assert run.data.params["data.columns.is it a question_x3F_"] == "label"
    assert run.data.params["optim.lr"] == "0.01"
    assert run.data.tags["a_x40_b"] == "true"
    assert json.loads(run.data.tags["galley.renamed"])["eval/recall_x40_5"] == "eval/recall@5"
    said = [record.getMessage() for record in caplog.records]
    assert [text.count("'eval/recall@5' as 'eval/recall_x40_5'") for text in said] == [0, 1]


def test_a_run_is_closed_also_after_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(MlflowClient, "log_dict", fail)
    folder = RunFolder(tmp_path / "run")
    tracking = track_run(tiny_spec(MLFLOW, 1), folder, is_main=True)
    tracking.log(1, {"loss": 0.5})
    tracking.table("front", ["f1"], [[0.5]])
    tracking.log(2, {"loss": 0.25})
    tracking.finish({"state": "succeeded"}, succeeded=True)
    (run,) = runs(folder.tracker / "mlflow.db")
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 0.5)
    assert caplog.text.count("goes on without it") == 1


def test_trials_of_a_study_share_one_database(tmp_path: Path) -> None:
    """Opened at the same time, before it has tables."""
    context = multiprocessing.get_context("fork")
    asked = [replace(MLFLOW, tracker=of_trial(MLFLOW.tracker, "lr", n, tmp_path)) for n in range(2)]
    trials = [
        context.Process(target=report, args=(tmp_path / f"trials/{number:04d}", each, float(number + 1)))
        for number, each in enumerate(asked)
    ]
    for process in trials:
        process.start()
    for process in trials:
        process.join()
    study = track_study(MLFLOW, "lr", tmp_path)
    study.table("front", ["trial"], [[1]])
    study.finish({"trials": 2}, succeeded=True)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("mlflow.db")] == [Path("tracker/mlflow.db")]
    found = {run.info.run_name: run for run in runs(tmp_path / "tracker/mlflow.db")}
    assert found.keys() == {"lr-0000", "lr-0001", "lr"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [found[f"lr-{n:04d}"].data.metrics["loss"] for n in range(2)] == [0.2, 0.4]
    assert {run.data.tags["galley.group"] for run in found.values()} == {"lr"}


@pytest.mark.parametrize(
    ("settings", "folder", "uri"),
    [
        (Tracker("mlflow"), Path("/s"), "sqlite:////s/tracker/mlflow.db"),
        (Tracker("mlflow"), None, None),
        (Tracker("mlflow", uri="http://server:5000"), Path("/s"), "http://server:5000"),
        (Tracker("wandb"), Path("/s"), None),
    ],
)
def test_where_a_trial_reports_to(settings: Tracker, folder: Path | None, uri: str | None) -> None:
    found = of_trial(settings, "lr", 7, folder)
    assert (found.uri, found.name, found.group) == (uri, "lr-0007", "lr")


class Refusing:
    """A client that takes no parameters."""

    ended: ClassVar[list[str]] = []

    def __init__(self, uri: str) -> None:
        self.info = SimpleNamespace(run_id="r")

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id="1")

    def create_run(self, *_: object, **__: object) -> Refusing:
        return self

    def log_batch(self, *_: object, **__: object) -> None:
        raise OSError("the server is full")

    def set_terminated(self, run: str, state: str) -> None:
        self.ended.append(state)


def test_a_run_that_cannot_be_opened_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "MlflowClient", Refusing)
    track_run(tiny_spec(MLFLOW, 1), RunFolder(tmp_path), is_main=True).finish({}, succeeded=True)
    assert Refusing.ended == ["FAILED"]
