"""Begin, continue and end a sweep."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from galley.config.compose import compose_recipe
from galley.errors import ConfigError, Problem, RunFailedError, SubmissionError
from galley.paths import ROOT, command_of
from galley.run.seal import snapshot, snapshot_sha256, write_snapshot
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.system import proc
from galley.system.os_errors import resumable, whole, writing
from hpo.backends import make_backend
from hpo.backends.base import Search
from hpo.check import check_known_points, check_points, sweep_problems
from hpo.controller import Controller
from hpo.display import make_show
from hpo.population import died_out
from hpo.pruning import make_pruner
from hpo.space.dimensions import read_space
from hpo.space.known_points import read_known_points
from hpo.study.event_log import Begun, Cancelled, EventLog, Extended, Resumed, read_journal
from hpo.study.folder import JOURNAL, StudyFolder
from hpo.study.identity import study_id
from hpo.study.shared_study import Ledger
from hpo.study.state import Study, fold
from hpo.study.values import ENDED
from hpo.trials import TrialRuns, end_all
from launchers.lifecycle.queries import cancel_run
from launchers.lifecycle.supervise import catch_interrupts

_CANCEL_S = 120.0
_DETACH_S = 60.0
_LEFT_BY_A_KILL = {".lock", "code", JOURNAL}  # remains of a sweep that was killed before it began


def begin(recipe: Recipe, words: Sequence[str], config_dirs: Sequence[Path], root: Path) -> StudyFolder:
    """Write the study down. From then on it can be resumed. Nothing is started.

    Raises `ConfigError` with everything that is wrong with the sweep, before anything is written.
    """
    problems = sweep_problems(recipe)
    if problems:
        raise ConfigError(problems)

    folder = StudyFolder(_study_dir(recipe, root))
    begun = Begun(
        name=folder.root.name,
        words=list(words),
        config_dirs=[str(path.resolve()) for path in config_dirs],
        recipe=recipe,
        code=snapshot(recipe),
        time=time.time(),
        points=read_known_points(recipe.hpo.points, read_space(recipe.hpo.space)),
    )

    study = Study(folder, begun)
    compose = TrialRuns(study).compose
    check_points(study.space, compose, _seed(study))
    check_known_points(begun.points, compose)
    make_backend(_search(study, dry=True), []).close()

    with writing(f"hpo.study_dir={folder.root}"), folder.lock():
        refuse_existing(folder)
        with whole(folder.root):
            write_snapshot(recipe, RunFolder(folder.root))
            with closing(EventLog(folder.journal)) as journal, journal.turn():
                journal.append(begun)
    return folder


def run(folder: StudyFolder, stream: IO[str], trials: int | None = None) -> Study:
    """Run the study to its last trial, from the state of its journal.

    `trials`: the new number of trials; None to leave it.

    Raises:
        SubmissionError: another controller is running it, and the study is not shared; or its database does
            not answer.
        ConfigError: the code has changed since the study began, or a line of the journal is broken; or the
            study cannot have that many trials.
        RunFailedError: it is done, and no trial succeeded.
        DiskFullError: the study can be resumed once there is room.
        RunCancelledError, InterruptedSweepError: it was ended from outside.
    """
    before = fold(folder, read_journal(folder.journal))
    with folder.lock(before.hpo.share), catch_interrupts() as interrupts:
        _refuse_other_code(before)
        with closing(EventLog(folder.journal)) as journal, closing(_open(folder, journal, trials)) as ledger:
            study = ledger.study
            with make_show(stream) as show, resumable(folder.root):
                Controller(ledger, make_pruner(study), interrupts, show).run()
    if study.trials and not any(trial.state in ("succeeded", "pruned") for trial in study.trials):
        reason = next((trial.message for trial in study.trials if trial.message), "")
        raise RunFailedError(f"{folder.root}: no trial succeeded; the first: {reason}")
    if reason := died_out(study):
        raise RunFailedError(f"{folder.root}: {reason}")
    return study


def _open(folder: StudyFolder, journal: EventLog, trials: int | None) -> Ledger:
    """Return the study in its current state, to continue it."""
    with journal.turn():
        study = fold(folder, journal.read())
        if trials is not None and trials != study.target:
            _extend(study, journal, trials)
        ledger = Ledger(study, journal, partial(make_backend, _search(study)))
        if ledger.is_alone:
            folder.cancel_request.unlink(missing_ok=True)
            shutil.rmtree(folder.ahead, ignore_errors=True)
        if study.cancelled:
            ledger.write(Resumed(time.time()))
    return ledger


def _extend(study: Study, journal: EventLog, trials: int) -> None:
    """Give the study more trials. Raises `ConfigError` if it cannot have them; then nothing is changed."""
    event, where = Extended(trials, time.time()), f"hpo.trials={trials}"
    if study.target is None:
        raise ConfigError(Problem(where, "has no end to move: the study has all points of its grid"))
    if trials < study.target:
        what = f"the study has {len(study.trials)} of {study.target} trials, and can only grow"
        raise ConfigError(Problem(where, what, f"more than {study.target}; `cancel` ends a study earlier"))
    if study.hpo.kind == "pbt":
        what = "a population has as many trials as its members have intervals, from its first step on"
        raise ConfigError(Problem(where, what, "begin a new study with a longer train.max_steps"))
    problems = sweep_problems(replace(study.begun.recipe, hpo=replace(study.hpo, trials=trials, points=None)))
    if problems:
        raise ConfigError(problems)
    journal.append(event)
    study.apply(event)


def detach(folder: StudyFolder) -> Path:
    """Start a separate process that runs the study; return its log.

    Raises `SubmissionError` if it ends, or does not lock the study, within a minute.
    """
    log = folder.root / "sweep.log"
    argv = (sys.executable, "-P", "-m", "hpo.detached", str(folder.root))
    child = proc.start(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, log=log, dies_with_parent=False)

    end = time.monotonic() + _DETACH_S
    while not folder.is_locked() and child.exit_code() is None:
        if time.monotonic() > end:
            raise SubmissionError(f"the sweep did not start within {_DETACH_S:g} s, see {log}")
        time.sleep(0.02)
    if child.exit_code():
        raise SubmissionError(f"the sweep ended at once: {log.read_text(errors='replace').strip()}")
    return log


def cancel(folder: StudyFolder) -> str:
    """End the study, and all of its running trials. Returns the resulting state: `cancelled`, or `done`.

    Raises `SubmissionError` if its controller, or the cluster of a trial, does not answer.
    """
    if is_done(fold(folder, read_journal(folder.journal))):
        return "done"
    end = time.monotonic() + _CANCEL_S
    while folder.is_locked() and time.monotonic() < end:
        if not folder.cancel_request.exists():
            folder.cancel_request.touch()
        time.sleep(0.1)

    with folder.lock():
        study = fold(folder, read_journal(folder.journal))
        folder.cancel_request.unlink(missing_ok=True)
        if is_done(study):
            return "done"
        folders = {trial.number: RunFolder(Path(trial.run)) for trial in study.running()}
        begun = {number: run for number, run in folders.items() if run.spec_file.exists()}
        end_all({number: partial(cancel_run, run) for number, run in begun.items()})
        if not study.cancelled:
            with closing(EventLog(folder.journal)) as journal, journal.turn():
                journal.append(Cancelled(time.time()))
    return "cancelled"


def is_done(study: Study) -> bool:
    """Return whether all trials of the study have ended."""
    target = study.target
    whole = target is not None and len(study.trials) >= target
    return whole and all(trial.state in ENDED for trial in study.trials)


def _study_dir(recipe: Recipe, root: Path) -> Path:
    """Return the folder of a new study: the one in the recipe, else the first free name below `root`."""
    named = recipe.hpo.study_dir or recipe.run_dir
    if named is not None:
        return Path(named).expanduser().resolve()
    name = f"{recipe.recipe}-{recipe.hpo.kind}-sweep"
    folder, number = root.resolve() / name, 1
    while folder.exists():
        number += 1
        folder = root.resolve() / f"{name}-{number}"
    return folder


def refuse_existing(folder: StudyFolder) -> None:
    """Raise `ConfigError` if the folder holds a study, or anything else that is not Galley's."""
    names = {path.name for path in folder.root.iterdir()}
    begun = folder.journal.exists() and b"\n" in folder.journal.read_bytes()
    if begun or names - _LEFT_BY_A_KILL:
        hint = f"go on with `resume {folder.root}`" if begun else "choose another hpo.study_dir"
        raise ConfigError(Problem(f"hpo.study_dir={folder.root}", "exists and is not empty", hint))


def _refuse_other_code(study: Study) -> None:
    """Raise `ConfigError` if the code or the recipe changed.

    All trials run the code that the study began with.
    """
    begun, folder = study.begun, study.folder
    if snapshot_sha256(RunFolder(folder.root)) != begun.code.sha256:
        hint = "the study's code is gone; begin a new study instead"
        raise ConfigError(Problem(str(folder.code), "was changed after the study began", hint))
    if folder.code != ROOT and snapshot(begun.recipe).sha256 != begun.code.sha256:
        resume_command = f"{command_of(folder.code)} resume {shlex.quote(str(folder.root))}"
        what = "began with other code than this, and its trials must not differ in it"
        raise ConfigError(Problem(str(folder.root), what, f"go on with its own code: {resume_command}"))
    if compose_recipe(begun.words, [Path(path) for path in begun.config_dirs]) != begun.recipe:
        what = "would be another recipe now: a file of your config folders has changed"
        raise ConfigError(Problem(str(folder.root), what, "restore it, or begin a new study"))


def _seed(study: Study) -> int:
    return study.begun.recipe.seed if study.hpo.seed is None else study.hpo.seed


def _search(study: Study, dry: bool = False) -> Search:
    """Return what the backend is made for. `dry`: only check that it can express it; nothing is written."""
    return Search(
        name=study.name,
        folder=study.folder.root,
        space=study.space,
        objectives=study.objectives,
        constraints=study.constraints,
        seed=_seed(study),
        settings=study.hpo,
        dry=dry,
        points=tuple(study.begun.points),
        id=study_id(study.begun),
    )
