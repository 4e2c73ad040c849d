"""Twenty real trials on Optuna, of a step each, with their tracker and their report.

`make acceptance` runs them in full, on Ray Tune too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.reference import SMALL_BERT
from tests.integration.warm.twenty import check, sweep
from tests.support import run_galley

SHORT = (
    "train.max_steps=1", "data.max_samples=16", "eval.every_steps=null", "data.max_length=32",
    "tracker=tensorboard", *SMALL_BERT,
)  # fmt: skip


@pytest.mark.timeout(1200)
def test_twenty_short_trials_of_quickstart_end_with_the_front_of_brute_force(tmp_path: Path) -> None:
    study = tmp_path / "study"
    found = sweep(study, "optuna", SHORT, 1100)
    check(found)
    for trial in found["trials"]:
        folder = RunFolder(Path(trial["run"]))
        (handle,) = folder.read_handles()
        assert handle.launcher == "warm"
        tracker = folder.read_spec().recipe.tracker
        assert (tracker.group, tracker.name) == ("study", f"study-{trial['number']:04d}")
        assert list(folder.tracker.glob("events.*"))
        assert not folder.model.exists(), "checkpoint.model=false"
    assert list((study / "tracker").glob("events.*")), "the summary of the study"
    shown = run_galley(["pareto", study, "--json"])
    assert shown.rc == 0, shown.err
    report = Path(json.loads(shown.out.splitlines()[-1])["report"])
    assert report == study / "report" / "report.html"
    assert {file.name for file in report.parent.iterdir()} == {
        "report.html", "front.png", "trials.csv", "front.json",
    }  # fmt: skip
