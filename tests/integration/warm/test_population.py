"""A population of the real trainer: what its trials start from, and with which rate they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.reference import SMALL_BERT
from tests.support import run_galley

SHORT = (
    "data.max_samples=16", "data.max_length=32", "eval.every_steps=null", "checkpoint.every_steps=null",
    "checkpoint.model=false", "batch.global_size=8", "train.log_every_steps=1", "cluster.procs_per_node=1",
)  # fmt: skip
POPULATION = (
    "hpo=pbt", "hpo.trials=4", "hpo.pbt.population=2", "hpo.pbt.quantile_fraction=0.5", "hpo.parallel=2",
    "hpo.warm=true", "train.max_steps=4", "train.epochs=2", "schedule.kind=constant",
    "schedule.warmup_ratio=null", "schedule.warmup_steps=0",
    "optim.lr=tag(log, interval(1e-5, 1e-3))", "hpo.objectives=[eval/loss]",
)  # fmt: skip


@pytest.mark.timeout(600)
def test_a_trial_goes_on_from_its_parent_with_a_rate_of_its_own(tmp_path: Path) -> None:
    study = tmp_path / "study"
    words = [*SMALL_BERT, *SHORT, *POPULATION, f"hpo.study_dir={study}"]
    done = run_galley(["sweep", *words, "--json"], timeout=500)
    assert done.rc == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    trials = found["trials"]
    assert [trial["state"] for trial in trials] == ["succeeded"] * 4
    assert sorted(trial["member"] for trial in trials) == [0, 0, 1, 1]
    for trial in trials:
        folder = RunFolder(Path(trial["run"]))
        result, rows = folder.read_result(), [row for row in folder.read_metrics() if "loss" in row]
        assert result is not None
        parent = trial["parent"]
        source = None if parent is None else f"{trials[parent]['run']}/checkpoints/step-000002"
        assert result.resumed_from == source
        assert [row["step"] for row in rows] == ([1, 2] if parent is None else [3, 4])
        assert {row["lr"] for row in rows} == {trial["params"]["optim.lr"]}
    children = [trial for trial in trials if trial["parent"] is not None]
    kept = [trial["number"] for trial in trials if (Path(trial["run"]) / "checkpoints").exists()]
    assert kept == [trial["number"] for trial in children], "of the last interval"
    # The second of the first two was asked with the other one's result known, or both were: the worse one
    # of the two has taken over the better one, unless it was first to go on.
    values = [trial["values"]["eval/loss"] for trial in trials[:2]]
    better = values.index(min(values))
    assert better in {trial["parent"] for trial in children}
