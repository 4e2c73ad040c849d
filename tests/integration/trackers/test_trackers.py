"""What trackers keep of real runs of two ranks, read back from their own files."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from galley.errors import Problem
from galley.run.missing_packages import missing_packages
from galley.rundir import RunFolder
from galley.schema import Checkpoint, Eval, Recipe, Tracker, Train
from galley.schema import Launcher as LauncherSettings
from galley.trackers import Tracking, about_run, track_study, tracker_problems
from galley.trackers.base import About
from galley.trackers.base import Tracker as TrackerSeam
from galley.trackers.wandb import wandb_mode
from tests.integration.train.tiny import run_ranks, tiny_recipe, tiny_spec, train

SECRET = "not-to-be-told"  # noqa: S105


def recipe(kind: Any, **changes: Any) -> Recipe:
    return tiny_recipe(
        tracker=Tracker(kind, group="sweep-1", tags=["tiny"]),
        train=Train(epochs=1.0, max_steps=6, log_every_steps=1),
        eval=Eval(metric="eval/accuracy", every_steps=3),
        checkpoint=Checkpoint(every_steps=2),
        launcher=LauncherSettings(env={"MY_TOKEN": SECRET}),
        **changes,
    )


def logged(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def blocks(data: bytes) -> bytes:
    """The records of a LevelDB log, behind W&B's header of seven bytes, as (length, record) pairs."""
    out, part, at = b"", b"", 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            out += struct.pack("<Q", len(part)) + part
            part = b""
    return out


def wandb_records(folder: Path) -> list[list[Any]]:
    """The records of every offline run in the folder, in the order in which they were started."""
    found = []
    for file in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime):
        data, at, records = blocks(file.read_bytes()), 0, []
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            record = Record()
            record.ParseFromString(data[at + 8 : at + 8 + size])
            records.append(record)
            at += 8 + size
        found.append(records)
    return found


def history(records: list[Any]) -> list[dict[str, Any]]:
    rows = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    return [{(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in row.item} for row in rows]


def one(records: list[Any], kind: str) -> Any:
    return next(getattr(r, kind) for r in records if r.WhichOneof("record_type") == kind)


def events(folder: Path) -> Iterator[Any]:
    """Every event of the TFRecord files: length, its checksum, the event, its checksum."""
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event()
            event.ParseFromString(data[at + 12 : at + 12 + size])
            yield event
            at += size + 16


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_wandb_keeps_metrics_config_group_and_id_over_a_restart(tmp_path: Path, no_key: None) -> None:
    spec = tiny_spec(recipe("wandb"), 2)
    folder = RunFolder(tmp_path / "run")
    codes = run_ranks(folder.root, spec, TINY_RAISE="5", NETRC=str(tmp_path / "no-netrc"))
    assert codes != [0, 0], "fails after a checkpoint"
    train(folder.root, spec, 2, NETRC=str(tmp_path / "no-netrc"))
    runs = wandb_records(folder.tracker)
    assert len(runs) == 2, "one of the main rank for each attempt"
    first, second = (one(records, "run") for records in runs)
    assert first.run_id == second.run_id == (folder.tracker / "id").read_text().strip()
    assert (second.run_group, second.job_type, second.project) == ("sweep-1", "train", "galley")
    assert list(second.tags) == ["tiny"]
    config = {item.key: json.loads(item.value_json) for item in second.config.update}
    assert config["optim"]["lr"] == spec.recipe.optim.lr
    assert config["layout"]["world_size"] == 2
    assert config["launcher"]["env"] == ["MY_TOKEN"]
    assert all(SECRET.encode() not in file.read_bytes() for file in folder.tracker.rglob("*.wandb"))
    told: dict[int, dict[str, Any]] = {}
    for row in [*history(runs[0]), *history(runs[1])]:
        told.setdefault(int(row["_step"]), {}).update(row)
    written: dict[int, dict[str, Any]] = {}
    for row in folder.read_metrics():
        written.setdefault(row["step"], {}).update(logged(row))
    assert told.keys() == written.keys() == set(range(1, 7))
    for step, row in written.items():
        assert told[step]["loss"] == row["loss"]
        assert told[step].get("eval/accuracy") == row.get("eval/accuracy")
    assert [one(records, "exit").exit_code for records in runs] == [1, 0]
    summary = {
        item.key: json.loads(item.value_json)
        for record in runs[1]
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    result = folder.read_result()
    assert result is not None
    assert summary["state"] == "succeeded"
    assert summary["eval/accuracy"] == result.metrics["eval/accuracy"]


def test_tensorboard_keeps_every_metric_and_the_config(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", tiny_spec(recipe("tensorboard"), 2))
    scalars: dict[tuple[str, int], list[float]] = {}
    texts = {}
    for event in events(folder.tracker):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                scalars.setdefault((value.tag, event.step), []).append(value.simple_value)
            else:
                texts[value.tag.partition("/")[0]] = value.tensor.string_val[0].decode()
    for row in folder.read_metrics():
        for name in logged(row).keys() - {"step"}:
            assert pytest.approx(row[name], rel=1e-6) in scalars[name, row["step"]]
    assert '"lr": 0.01' in texts["config"]
    assert SECRET not in texts["config"]
    assert '"state": "succeeded"' in texts["summary"]


def test_mlflow_keeps_every_metric_of_a_run_that_measures_its_energy(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    asked = recipe("mlflow")
    folder = train(tmp_path / "run", tiny_spec(replace(asked, train=replace(asked.train, energy=True)), 2))
    client = MlflowClient(f"sqlite:///{folder.tracker}/mlflow.db")
    experiment = client.get_experiment_by_name("galley")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.tags["galley.group"], run.data.tags["tiny"]) == ("sweep-1", "true")
    assert run.data.params["optim.lr"] == "0.01"
    assert SECRET not in str(run.data.params)
    for name in ("loss", "eval/accuracy"):
        told = {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        assert told == {row["step"]: row[name] for row in folder.read_metrics() if row.get(name) is not None}
    result = folder.read_result()
    assert result is not None
    assert 0 < result.metrics["energy_kwh"] < 1
    assert run.data.metrics["summary/energy_kwh"] == result.metrics["energy_kwh"]


def test_a_tracker_that_cannot_be_opened_is_said_once_and_the_run_succeeds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    folder.tracker.write_text("a file where the folder should be")
    train(folder.root, tiny_spec(recipe("tensorboard"), 1))
    log = folder.rank_log(1, 0).read_text()
    assert log.count("tracker: cannot open, goes on without it") == 1


class Failing(TrackerSeam):
    """Fails at the second metric."""

    def __init__(self, about: About) -> None:
        self.calls: list[int] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(step)
        if step == 2:
            raise OSError("no space left on device")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.calls.append(-1)

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        self.calls.append(-2)


def test_a_tracker_that_fails_later_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Failing(about_run(tiny_spec(recipe("tensorboard"), 1), RunFolder(tmp_path)))
    tracking = Tracking(lambda: tracker)
    with caplog.at_level(logging.WARNING, logger="galley"):
        for step in (1, 2, 3):
            tracking.log(step, {"step": step, "loss": 0.5, "grad_norm": None})
        tracking.table("front", ["f1"], [[0.5]])
        tracking.finish({}, succeeded=True)
    assert tracker.calls == [1, 2, -2], "nothing more is told, but it is closed"
    assert [record.message for record in caplog.records] == [
        "tracker: cannot log, goes on without it: OSError: no space left on device"
    ]


@pytest.mark.parametrize(
    ("asked", "environ", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": SECRET}, "online"),
        ("auto", {"WANDB_API_KEY": SECRET, "WANDB_MODE": "offline"}, "offline"),
        ("online", {}, "online"),
        ("disabled", {"WANDB_API_KEY": SECRET}, "disabled"),
    ],
)
def test_wandb_is_offline_without_a_key(
    asked: str, environ: dict[str, str], mode: str, tmp_path: Path
) -> None:
    assert wandb_mode(asked, {"NETRC": str(tmp_path / "none"), **environ}) == mode


def test_a_login_in_the_netrc_file_is_a_key(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    file.chmod(0o600)
    assert wandb_mode("auto", {"NETRC": str(file)}) == "online"


def test_a_missing_library_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no problem of the recipe: who only lists, checks or plans recipes needs no library of them."""
    here = "galley.run.missing_packages.find_spec"
    monkeypatch.setattr(here, lambda name: None if name == "trackio" else find_spec(name))
    problems: list[Problem] = list(missing_packages(recipe("trackio")))
    assert ["trackio is not installed" in str(problem) for problem in problems] == [True]
    assert not list(tracker_problems(recipe("trackio")))


def test_a_study_is_a_run_of_the_group_of_its_trials(tmp_path: Path, no_key: None) -> None:
    tracking = track_study(recipe("wandb"), "sweep-1", tmp_path)
    tracking.table("front", ["number", "eval/f1"], [[0, 0.5], [3, 0.75]])
    tracking.finish({"trials": 4}, succeeded=True)
    (records,) = wandb_records(tmp_path)
    run = one(records, "run")
    assert (run.run_group, run.job_type, run.display_name) == ("sweep-1", "study", "sweep-1")
    tables = list(tmp_path.rglob("front*.table.json"))
    assert json.loads(tables[0].read_text())["data"] == [[0, 0.5], [3, 0.75]]
    assert wandb.run is None
