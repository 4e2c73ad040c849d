"""Studies whose trainer is the stand-in; everything else is real: composing, sealing, journal, controller,
Optuna's storage, the local launcher and its processes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import Composed
from galley.run.seal import snapshot_sha256
from galley.rundir import RunFolder
from galley.spec import CodeSnapshot
from hpo import controller, sweep
from hpo.population import interval_end, interval_numbers, intervals, lineage
from hpo.study.event_log import Begun, EventLog
from hpo.study.folder import StudyFolder
from hpo.study.state import Study, read_study
from hpo.trials import TrialRuns

COMPOSED = Composed()  # the files are read once for all studies
WORDS = [
    "strategy=single",
    "train.max_steps=6",
    "checkpoint.every_steps=2",
    "eval.every_steps=1",
    "optim.lr=tag(log,interval(1e-5,1e-3))",
    "hpo.objectives=[eval/f1,samples_per_s]",
    "launcher.grace_s=0.5",
]


def make_study(root: Path, *words: str) -> StudyFolder:
    """A study that has begun, with the stand-in for its code."""
    folder = StudyFolder(root)
    package = folder.code / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("standin_trainer.py"), package / "worker.py")
    own = {word.partition("=")[0] for word in words}
    asked = [*(word for word in WORDS if word.partition("=")[0] not in own), *words]
    code = CodeSnapshot(snapshot_sha256(RunFolder(root)), None, False)
    journal = EventLog(folder.journal)
    journal.append(Begun(root.name, asked, [], compose_recipe(asked, composed=COMPOSED), code, time.time()))
    journal.close()
    return folder


def run(folder: StudyFolder, trials: int | None = None) -> Study:
    """`hpo.sweep.run`, without its look at the code: here that is a stand-in by design."""
    sweep._refuse_other_code = lambda study: None
    controller.TrialRuns = partial(TrialRuns, composed=COMPOSED)  # type: ignore[misc,assignment]
    with Path(os.devnull).open("w") as stream:
        return sweep.run(folder, stream, trials)


def trace(folder: StudyFolder, number: int) -> list[dict[str, Any]]:
    path = folder.trial(number) / "trace.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def living(folder: StudyFolder) -> list[psutil.Process]:
    """Processes with a path of the study on their command line."""
    root = str(folder.root)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words: list[str] = process.info["cmdline"] or []
        mine = process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE
        if mine and any(word.startswith(f"{root}/") for word in words):
            found.append(process)
    return found


def faults(folder: StudyFolder, count: int) -> list[str]:
    """What is not as it must be in a study that was killed and resumed: empty where all is."""
    study = read_study(folder.root)
    found = []
    if [trial.number for trial in study.trials] != list(range(count)):
        found.append(f"trials {[trial.number for trial in study.trials]}")
    found += [f"trial {t.number} is {t.state}: {t.message}" for t in study.trials if t.state != "succeeded"]
    for trial in study.trials:
        found += trace_faults(trial.number, trial.params, trace(folder, trial.number))
    found += [f"lives: {process}" for process in living(folder)]
    if not study.hpo.share:  # where another controller lives, what a killed one left stays
        found += [f"left: {path}" for path in folder.ahead.glob("*")]
    if study.hpo.kind == "optuna":
        found += optuna_faults(study)
    if study.hpo.kind == "pbt":
        found += population_faults(study)
    folders = sorted(path.name for path in folder.trials.iterdir())
    if folders != [f"{number:04d}" for number in range(count)]:
        found.append(f"folders {folders}")
    return found


def trace_faults(number: int, params: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every attempt has the trial's parameters, and begins at the last checkpoint that was complete."""
    found, saved, finished = [], 0, 0
    for row in rows:
        if "began" in row:
            if row["lr"] != params["optim.lr"]:
                found.append(f"trial {number}: {row['lr']} is not {params['optim.lr']}")
            if row["began"] < saved:
                found.append(f"trial {number} began at {row['began']} after {saved} was saved")
        saved = max(saved, row.get("saved", 0))
        finished += "done" in row
    if finished != 1:
        found.append(f"trial {number} finished {finished} times")
    return found


def population_faults(study: Study) -> list[str]:
    """Every trial learned what its lineage learned, an interval each, and then its own; of checkpoints
    there are those of the last interval only."""
    found, steps = list[str](), study.begun.recipe.train.max_steps or 0
    count = intervals(study.hpo)
    numbers = interval_numbers(study.trials)
    for trial, number in zip(study.trials, numbers, strict=True):
        expected: list[float] = []
        for index, each in enumerate(lineage(study.trials, trial)):
            length = interval_end(study.begun.recipe, index) - len(expected)
            expected += [1 - abs(each.params["optim.lr"] - 1e-4) / 1e-3] * length
        if len(expected) != steps * (number + 1) // count:
            found.append(f"trial {trial.number} has {len(expected)} steps behind it")
        value = sum(expected) / steps
        if abs(trial.values["eval/f1"] - value) > 1e-9:
            found.append(f"trial {trial.number} has {trial.values}, but its lineage {value}")
        if RunFolder(Path(trial.run)).checkpoints.exists() != (number == count - 1):
            found.append(f"trial {trial.number}, interval {number}: checkpoints")
    if sorted(numbers) != sorted(list(range(count)) * study.hpo.pbt.population):
        found.append(f"intervals {numbers}")
    return found


def optuna_faults(study: Study) -> list[str]:
    import optuna
    from optuna.trial import TrialState

    from hpo.backends.optuna import storage_url
    from hpo.backends.optuna_storage import open_storage

    storage = open_storage(storage_url(study.hpo.storage), study.folder.root)
    stored = optuna.load_study(study_name=study.name, storage=storage).trials
    found = [f"optuna: trial {t.number} is {t.state.name}" for t in stored if t.state != TrialState.COMPLETE]
    if [t.params for t in stored] != [t.params for t in study.trials]:
        found.append("optuna has other trials")
    return found


def main() -> None:
    """`python -m tests.integration.hpo.lab STUDY`: the controller of a study, as a process."""
    run(StudyFolder(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
