"""A sweep whose trials are forked, as the command runs it; its report and its trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.support import run_galley


@pytest.mark.timeout(600)
def test_a_warm_sweep_with_its_report_and_its_tracker(tmp_path: Path) -> None:
    study = tmp_path / "study"
    words = [
        "hpo=random", "hpo.trials=3", "hpo.parallel=2", "hpo.warm=true", "hpo.objectives=[train/loss:min]",
        "optim.lr=tag(log, interval(1e-6,1e-4))", f"hpo.study_dir={study}", "strategy=single",
        "data.max_samples=8", "batch.global_size=4", "train.max_steps=1", "eval.enabled=false",
        "checkpoint.every_steps=null", "tracker=tensorboard",
    ]  # fmt: skip
    done = run_galley(["sweep", *words, "--json"], timeout=500)
    assert done.rc == 0, done.err
    trials = json.loads(done.out.splitlines()[-1])["trials"]
    assert [trial["state"] for trial in trials] == ["succeeded"] * 3
    for trial in trials:
        folder = RunFolder(Path(trial["run"]))
        (handle,) = folder.read_handles()
        assert handle.launcher == "warm"
        tracker = folder.read_spec().recipe.tracker
        assert (tracker.group, tracker.name) == ("study", f"study-{trial['number']:04d}")
        assert list(folder.tracker.glob("events.*"))
    assert list((study / "tracker").glob("events.*")), "the summary of the study"
    shown = run_galley(["pareto", study, "--json"])
    assert shown.rc == 0, shown.err
    report = Path(json.loads(shown.out.splitlines()[-1])["report"])
    assert report == study / "report" / "report.html"
    assert {file.name for file in report.parent.iterdir()} == {
        "report.html", "front.png", "trials.csv", "front.json",
    }  # fmt: skip
