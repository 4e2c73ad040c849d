"""The controller with a trainer of milliseconds: retries, bounds, pruning, cancelling, broken journals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from galley.errors import ConfigError, SubmissionError
from galley.spec import RunResult
from hpo import controller, sweep
from hpo.select import pareto_front
from hpo.study.folder import StudyFolder
from hpo.study.state import Study, read_study
from launchers.lifecycle.attempt_monitor import Watch
from tests.integration.hpo import lab
from tests.integration.local.standin import wait_until
from tests.support import REPO

POPULATION = ("hpo.pbt.population=3", "hpo.objectives=[eval/f1]")


def run(root: Path, *words: str, **files: object) -> Study:
    folder = lab.make_study(root, *words)
    for name, content in files.items():
        (folder.root / f"{name}.json").write_text(json.dumps(content))
    return lab.run(folder)


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.trials]


def start(folder: StudyFolder) -> subprocess.Popen[bytes]:
    """The controller as a process, whose trials last seconds."""
    environ = {**os.environ, "PYTHONPATH": str(REPO), "STANDIN_STEP_S": "1"}
    argv = [sys.executable, "-W", "ignore", "-m", "tests.integration.hpo.lab", str(folder.root)]
    process = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: list(folder.trials.glob("*/trace.jsonl")) or process.poll() is not None, timeout=90)
    return process


def test_failures_are_retried_by_class_and_never_stop_the_study(tmp_path: Path) -> None:
    """[trial, attempts that fail, class]: a node is tried again, a defect and memory are not."""
    events = [[0, 1, "node"], [1, 9, "node"], [2, 1, "user"], [3, 1, "oom"], [4, 1, "nan"]]
    words = ("hpo=random", "hpo.trials=9", "hpo.parallel=2", "hpo.retries=1")
    metrics = {5: {"eval/f1": None}, 7: {"eval/f1": math.nan}, 8: {"eval/f1": math.inf}}
    study = run(tmp_path / "study", *words, events=events, metrics=metrics)
    expected = ["succeeded", "failed", "failed", "infeasible", "failed", "failed", "succeeded"]
    assert states(study) == [*expected, "failed", "failed"]
    assert [trial.attempts for trial in study.trials] == [2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert study.trials[1].message.startswith("node, 2 times")
    assert study.trials[5].message.startswith("the run did not report 'eval/f1'")
    assert study.trials[7].message == "'eval/f1' is not a number"
    assert study.trials[8].message == "'eval/f1' is infinite"
    assert set(pareto_front(study).front) <= {0, 6}
    assert not lab.living(study.folder)


def test_front_of_twenty_trials_is_that_of_brute_force(tmp_path: Path) -> None:
    """Optuna, two objectives. Equal to Optuna's own front, and only the controller drew parameters."""
    import optuna

    from hpo.backends.optuna_storage import open_storage

    study = run(tmp_path / "study", "hpo=optuna", "hpo.trials=20", "hpo.parallel=3")
    assert states(study) == ["succeeded"] * 20
    points = [(t.values["eval/f1"], t.values["samples_per_s"]) for t in study.trials]
    beaten = [any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]
    found = pareto_front(study)
    assert list(found.front) == [number for number in range(20) if not beaten[number]]
    stored = optuna.load_study(study_name="study", storage=open_storage(None, study.folder.root))
    assert sorted(trial.number for trial in stored.best_trials) == list(found.front)
    assert not lab.faults(study.folder, 20)
    for trial in study.trials:  # what a rank reads is sealed: no space, no backend, one value
        sealed = json.loads((Path(trial.run) / "run.json").read_text())["recipe"]
        assert sealed["hpo"]["kind"] == "none"
        assert sealed["hpo"]["space"] == {}
        assert sealed["optim"]["lr"] == trial.params["optim.lr"]


def test_points_that_cannot_run_are_never_started(tmp_path: Path) -> None:
    """One does not fit into memory, one has no layout; a bound that is not kept ends no trial."""
    words = ("hpo=grid", "hpo.trials=null", "model.num_parameters=200000000", "hpo.max_memory_gib=3")
    space = ("optim.lr=1e-4", "batch.micro_size=3,4", "hpo.space.model.num_parameters=[1000000,900000000]")
    objectives = "hpo.objectives=[eval/f1,{metric: samples_per_s, direction: maximize, bound: 1e9}]"
    study = run(tmp_path / "study", *words, *space, objectives, "batch.global_size=8")
    assert states(study) == ["infeasible", "succeeded", "infeasible", "infeasible"]
    assert "a rank needs 13.41 GiB" in study.trials[3].message
    assert "global_size 8" in study.trials[0].message
    assert [(Path(t.run) / "run.json").exists() for t in study.trials] == [False, True, False, False]
    assert not study.trials[1].feasible
    assert pareto_front(study).front == ()


def test_hopeless_trials_are_pruned_and_the_front_is_not(tmp_path: Path) -> None:
    words = ("hpo=grid", "hpo.trials=null", "hpo.pruning.kind=pareto", "hpo.pruning.min_trials=2")
    space = ("optim.lr=1e-4,2e-4,4e-4,8e-4,9e-4,1e-3", "train.max_steps=30", "hpo.pruning.eta=2")
    objectives = "hpo.objectives=[eval/f1,eval/loss]"
    study = run(tmp_path / "study", *words, *space, objectives)
    assert states(study)[0] == "succeeded"
    assert states(study).count("pruned") >= 3
    assert pareto_front(study).front == (0,)
    pruned = next(trial for trial in study.trials if trial.state == "pruned")
    assert len(lab.trace(study.folder, pruned.number)) < len(lab.trace(study.folder, 0))
    assert "others were better in everything" in pruned.message


def test_a_cluster_that_does_not_answer_when_a_trial_is_pruned_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, asked = Watch.end, []

    def deaf_at_first(watch: Watch, grace_s: float) -> RunResult:
        asked.append(watch.job.handle.job)
        if asked.count(watch.job.handle.job) == 1:
            raise SubmissionError("no answer")
        return end(watch, grace_s)

    monkeypatch.setattr(Watch, "end", deaf_at_first)
    monkeypatch.setattr(controller, "ASK_AGAIN_S", 0.05)
    words = ("hpo=grid", "hpo.trials=null", "hpo.pruning.kind=median", "hpo.pruning.min_trials=1")
    space = ("optim.lr=1e-4,1e-3", "train.max_steps=60", "hpo.objectives=[eval/f1]")
    study = run(tmp_path / "study", *words, *space)
    assert states(study) == ["succeeded", "pruned"]
    assert asked == asked[:1] * 2
    assert not lab.living(study.folder)


@pytest.mark.parametrize("kind", ["median", "asha", "hyperband"])
def test_hopeless_trials_are_pruned_for_one_objective(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best comes first; of the others none does better at any rung, so that most end early."""
    monkeypatch.setenv("STANDIN_STEP_S", "0.02")  # long enough to be judged on a busy machine too
    words = ("hpo=grid", "hpo.trials=null", f"hpo.pruning.kind={kind}", "hpo.pruning.min_trials=2")
    space = ("optim.lr=1e-4,2e-4,4e-4,8e-4,9e-4,1e-3,9.5e-4", "train.max_steps=30", "hpo.pruning.eta=2")
    study = run(tmp_path / "study", *words, *space, "hpo.objectives=[eval/f1]")
    assert states(study)[0] == "succeeded"
    assert states(study).count("pruned") >= 2
    assert set(states(study)) == {"succeeded", "pruned"}
    assert pareto_front(study).chosen == 0
    pruned = next(trial for trial in study.trials if trial.state == "pruned")
    assert len(lab.trace(study.folder, pruned.number)) < len(lab.trace(study.folder, 0))


def test_study_in_a_database_is_the_study_of_the_journal(tmp_path: Path) -> None:
    """By URL: Optuna's own storage in SQLite, which a second controller finds as the first left it."""
    import optuna

    url = f"sqlite:///{tmp_path}/studies.db"
    words = ("hpo=optuna", "hpo.trials=4", "hpo.parallel=2", f"hpo.storage={url}", "hpo.sampler=nsga2")
    study = run(tmp_path / "study", *words)
    assert states(study) == ["succeeded"] * 4
    lines = study.folder.journal.read_text().splitlines(keepends=True)
    study.folder.journal.write_text("".join(lines[:-1]))  # killed before the last end was written
    assert states(lab.run(study.folder)) == ["succeeded"] * 4
    stored = optuna.load_study(study_name="study", storage=url)
    assert [trial.params for trial in stored.trials] == [trial.params for trial in study.trials]
    assert [trial.values for trial in stored.trials] == [list(t.values.values()) for t in study.trials]
    assert sorted(trial.number for trial in stored.best_trials) == list(pareto_front(study).front)
    assert not (study.folder.root / "optuna.log").exists()


def test_repeats_are_trials_of_their_own_with_other_seeds(tmp_path: Path) -> None:
    study = run(tmp_path / "study", "hpo=optuna", "hpo.trials=4", "hpo.repeats=2", "seed=7")
    assert [trial.repeat_of for trial in study.trials] == [None, 0, None, 2]
    seeds = [json.loads((Path(t.run) / "run.json").read_text())["recipe"]["seed"] for t in study.trials]
    assert seeds == [7, 8, 7, 8]
    assert study.trials[0].params == study.trials[1].params != study.trials[2].params
    assert [estimate.count for estimate in pareto_front(study).estimates] == [2, 2]
    assert not lab.optuna_faults(study)


def test_second_controller_is_refused_and_cancel_ends_everything(tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", "hpo=random", "hpo.trials=4", "hpo.parallel=2")
    controller = start(folder)
    try:
        with pytest.raises(SubmissionError, match=f"process {controller.pid} is running this sweep"):
            lab.run(folder)
        assert sweep.cancel(folder) == "cancelled"
        assert controller.wait(60) != 0
    finally:
        controller.kill()
    assert not lab.living(folder)
    assert set(states(read_study(folder.root))) == {"cancelled"}
    assert sweep.cancel(folder) == "cancelled"
    study = lab.run(folder)  # and it can be taken up again
    assert states(study) == ["succeeded"] * 4
    assert sweep.cancel(folder) == "done"
    assert not lab.faults(folder, 4)


def test_interrupted_sweep_leaves_nothing_behind_and_goes_on(tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", "hpo=random", "hpo.trials=2", "hpo.parallel=2")
    controller = start(folder)
    controller.send_signal(signal.SIGINT)
    out, _ = controller.communicate(timeout=60)
    assert b"interrupted after 0 of 2 trials" in out
    assert not lab.living(folder)
    assert states(lab.run(folder)) == ["succeeded"] * 2
    assert not lab.faults(folder, 2)


def test_broken_journal_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    study = run(tmp_path / "study", "hpo=random", "hpo.trials=2")
    path = study.folder.journal
    lines = path.read_text().splitlines(keepends=True)
    broken = {
        "journal.jsonl:3": [*lines[:2], "{garbage\n", *lines[3:]],
        "asks trial 1, but 0 is the next": [lines[0], *lines[3:]],
        "had ended before": [*lines, lines[-1]],
        "does not begin a study": lines[1:],
        "is empty": [],
    }
    for complaint, content in broken.items():
        path.write_text("".join(content))
        for read in (lambda: read_study(study.folder.root), lambda: lab.run(study.folder)):
            with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
                read()
        assert path.read_text() == "".join(content)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])  # a writer that was killed: as if never written
    assert states(read_study(study.folder.root)) == ["succeeded", "running"]
    assert states(lab.run(study.folder)) == ["succeeded", "succeeded"]
    assert path.read_text().count('"event": "ended"') == 2


def test_changed_digit_is_noticed(tmp_path: Path) -> None:
    study = run(tmp_path / "study", "hpo=random", "hpo.trials=1")
    path = study.folder.journal
    before = path.read_bytes()
    at = before.index(b'"eval/f1": ') + len(b'"eval/f1": 0.')
    digit = b"1" if before[at : at + 1] != b"1" else b"2"
    changed = before[:at] + digit + before[at + 1 :]
    path.write_bytes(changed)
    with pytest.raises(ConfigError, match=r"journal\.jsonl:3: was changed: its checksum.*\n.*restore"):
        lab.run(study.folder)
    assert path.read_bytes() == changed
    path.write_bytes(before)
    assert states(read_study(study.folder.root)) == ["succeeded"]
    first, _, rest = before.decode().partition("\n")
    old = re.sub(r', "crc32": "\w+"', "", first).replace('"version": 2', '"version": 1')
    path.write_text(f"{old}\n{rest}")
    with pytest.raises(
        ConfigError,
        match=r"earlier version.*\n.*go on with: PYTHONPATH=.*/code \S+ -P .*code/train.py resume",
    ):
        read_study(study.folder.root)


@pytest.mark.parametrize("words", [("hpo=optuna",), ("hpo=pbt", *POPULATION)], ids=["optuna", "pbt"])
def test_shared_study_has_each_trial_once_when_a_controller_is_killed(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Two controllers; one is killed in its second trial, and the other takes over."""
    folder = lab.make_study(tmp_path / "study", "hpo.trials=6", "hpo.share=true", *words)
    (folder.root / "kill.json").write_text(json.dumps(["both@1:3:training"]))
    environ = {**os.environ, "PYTHONPATH": str(REPO), "STANDIN_STEP_S": "0.1"}
    argv = [sys.executable, "-W", "ignore", "-m", "tests.integration.hpo.lab", str(folder.root)]
    both = [subprocess.Popen(argv, env=environ) for _ in range(2)]
    try:
        codes = sorted(process.wait(120) for process in both)
    finally:
        for process in both:
            process.kill()
    assert codes == [-signal.SIGKILL, 0]
    assert not lab.faults(folder, 6)
    events = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    assert len({event["controller"] for event in events if event["event"] == "asked"}) == 2
    assert [event["number"] for event in events if event["event"] == "adopted"] == [1]


def test_a_study_that_is_extended_has_exactly_as_many_trials(tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", "hpo=optuna", "hpo.trials=2")
    lab.run(folder)
    assert not lab.faults(folder, 2)
    lab.run(folder, trials=4)
    assert not lab.faults(folder, 4)
