"""No file that a run or a sweep writes, and no message, has the value of a secret: names stand for them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.rundir import RunFolder
from galley.schema import Launcher, Tracker
from galley.trackers import Tracking, track_run, track_study
from tests.integration.train.tiny import tiny_recipe, tiny_spec
from tests.support import free_port

SECRET = "hunter2-not-to-be-told"  # noqa: S105
FORWARD = "launcher.forward_env=[HF_TOKEN,WANDB_API_KEY,TRACKING]"


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def report(tracking: Tracking) -> None:
    """As a run, and a sweep, report."""
    tracking.log(1, {"loss": 0.5})
    tracking.table("front", ["f1"], [[0.5]])
    tracking.finish({"state": "succeeded"}, succeeded=True)


def test_wandb_records_neither_the_users_words_nor_values_of_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "sweep", f"launcher.env.TOKEN={SECRET}"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = tiny_recipe(tracker=Tracker("wandb"), launcher=Launcher(env={"TOKEN": SECRET}))
    report(track_study(recipe, "study", tmp_path / "study"))
    report(track_run(tiny_spec(recipe, 1), RunFolder(tmp_path / "run"), is_main=True))
    assert sys.argv == ["train.py", "sweep", f"launcher.env.TOKEN={SECRET}"]
    assert len(list(tmp_path.rglob("run-*.wandb"))) == 2, "it was recorded"
    assert not files_with(SECRET, tmp_path)


@pytest.mark.parametrize(
    "word",
    [f"tracker.uri=https://me:{SECRET}@host", f"hpo.storage='postgresql://host/db?password={SECRET}'"],
)
def test_a_password_in_a_url_is_refused_without_it_being_repeated(word: str) -> None:
    with pytest.raises(ConfigError, match="carries a password, which would be written down") as raised:
        compose_recipe([word], [])
    assert SECRET not in str(raised.value)


def test_a_variable_of_the_trackers_url_has_to_reach_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the ranks do not get the variable 'TRACKING'") as raised:
        compose_recipe(["tracker.uri=env:TRACKING"], [])
    assert FORWARD in str(raised.value)
    with pytest.raises(ConfigError, match="the variable 'TRACKING' is not set"):
        compose_recipe(["tracker.uri=env:TRACKING", FORWARD], [])
    monkeypatch.setenv("TRACKING", f"https://me:{SECRET}@host")
    assert SECRET not in str(compose_recipe(["tracker.uri=env:TRACKING", FORWARD], []))


def test_mlflow_has_its_url_from_a_variable_and_no_message_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("TRACKING", f"http://me:{SECRET}@127.0.0.1:{free_port()}")
    folder = RunFolder(tmp_path / "run")
    spec = tiny_spec(tiny_recipe(tracker=Tracker("mlflow", uri="env:TRACKING")), 1)
    folder.root.mkdir()
    folder.write_spec(spec)
    with caplog.at_level(logging.DEBUG):
        report(track_run(spec, folder, is_main=True))
    assert "tracker: cannot open, goes on without it" in caplog.text
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert not [text for text in told if SECRET in text]
    assert not files_with(SECRET, folder.root)
