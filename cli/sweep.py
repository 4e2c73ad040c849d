"""`sweep`, and what `run`, `resume`, `cancel`, `status` and `list` do with studies; `pareto`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import Options
from cli.prepare import Asked, ask, direction_warnings, refuse_missing_packages
from galley.errors import ConfigError, Problem
from galley.schema import Recipe

if TYPE_CHECKING:
    from hpo.promote import Promoted
    from hpo.study.folder import StudyFolder
    from hpo.study.state import Study


def sweep(words: Sequence[str], options: Options) -> int:
    """`run` with a sweep around it."""
    asked = ask(words, options, exports=True)
    if asked.recipe.hpo.kind == "none":
        raise ConfigError(Problem("hpo=none", "is one run, not a sweep", "choose hpo=optuna, random or grid"))
    return start_sweep(asked, options)


def start_sweep(asked: Asked, options: Options) -> int:
    """Begin the study and run it to its end, unless `detach=true`."""
    from hpo.sweep import begin, detach

    for warning in direction_warnings(asked.recipe):
        print(f"warning: {warning}", file=sys.stderr)
    if asked.recipe.hpo.kind == "wandb":
        return _export_to_wandb(asked.recipe, asked.words, options)
    refuse_missing_packages(asked.recipe)
    folder = begin(asked.recipe, asked.words, options.config_dirs, options.root)
    if asked.recipe.detach:
        log = detach(folder)
        state = {"study_dir": str(folder.root), "state": "running", "log": str(log)}
        print(json.dumps(state) if options.json else folder.root)
        return 0
    return run_study(folder, options)


def _export_to_wandb(recipe: Recipe, words: Sequence[str], options: Options) -> int:
    """W&B's server draws the points of its sweeps: what is left to do here is to write it down."""
    from hpo.wandb_sweep import export_sweep

    name = f"{recipe.recipe}-wandb-sweep"
    file = (
        Path(recipe.hpo.study_dir) if recipe.hpo.study_dir else options.root / name
    ).resolve() / "sweep.yaml"
    config = export_sweep(recipe, words, file, options.config_dirs)
    if options.json:
        print(json.dumps({"sweep": str(file), "config": config}))
    else:
        print(f"{file}\nregister it:  wandb sweep {file}\nrun trials:   wandb agent SWEEP_ID, on any machine")
    return 0


def run_study(folder: StudyFolder, options: Options, trials: int | None = None) -> int:
    """Run a study that has begun, from wherever it is, and show what it found."""
    from hpo.sweep import run

    stream = sys.stderr if options.json else sys.stdout
    print(folder.root, file=stream, flush=True)
    study = run(folder, stream, trials)
    _track(study)
    return _show(study, options)


def _track(study: Study) -> None:
    """What was found, at the tracker of the trials."""
    from hpo.report.tracked import track
    from hpo.select import pareto_front

    if study.begun.recipe.tracker.kind != "none":
        track(study, pareto_front(study))


def _show(study: Study, options: Options) -> int:
    from hpo.select import pareto_front
    from hpo.summary import front_json, print_front

    found = pareto_front(study)
    if options.json:
        print(json.dumps(front_json(found, study.folder.root)))
    else:
        print_front(found, sys.stdout)
    return 0


def pareto(words: Sequence[str], options: Options) -> int:
    """Print the front, the knee and the winner of a study, and write its report; `--promote NAME` writes
    the winner as a recipe."""
    from hpo.report import write_report
    from hpo.select import pareto_front
    from hpo.summary import front_json, print_front

    study = _the_study("pareto", words, options)
    found = pareto_front(study)
    report = write_report(found, [dim.key for dim in study.space], study.folder.report)
    promoted = _promote(study, found.chosen, options) if options.promote is not None else None
    winner = {} if promoted is None else {"promoted": str(promoted.file), "commands": promoted.commands}
    if options.json:
        extra = {"report": str(report[0])} | winner
        print(json.dumps(front_json(found, study.folder.root) | extra))
        return 0
    print_front(found, sys.stdout)
    print(report[0])
    if promoted is not None:
        print(promoted.file)
        for number, command in enumerate(promoted.commands):
            print(f"{'then:  ' if number else 'run it:'} {command}")
    return 0


def _promote(study: Study, chosen: int | None, options: Options) -> Promoted:
    from hpo.promote import promote

    if chosen is None or options.promote is None:
        what = "has no winner: no trial of its front is chosen"
        raise ConfigError(Problem(str(study.folder.root), what, "see its trials with `status`"))
    return promote(study, study.trials[chosen], options.promote, options.config_dirs)


def study_status(word: str, options: Options) -> int:
    """Every trial, and how many there are in each state."""
    from hpo.summary import print_status, status_json

    study = _the_study("status", [word], options)
    if options.json:
        print(json.dumps(status_json(study)))
    else:
        print_status(study, sys.stdout)
    return 0


def cancel_study(word: str, options: Options) -> int:
    """End the study and everything of it that runs."""
    from hpo.study.folder import StudyFolder, find_study
    from hpo.sweep import cancel

    folder = StudyFolder(find_study(word, options.root))
    state = cancel(folder)
    print(json.dumps({"study_dir": str(folder.root), "state": state}) if options.json else state)
    return 0


def resume_study(words: Sequence[str], options: Options) -> int:
    """Continue a study to exactly as many trials as it was begun with, or as `hpo.trials=N` says."""
    from hpo.study.folder import StudyFolder, find_study
    from hpo.study.state import read_study
    from hpo.sweep import is_done

    trials = _trials_of(words[1:])
    folder = StudyFolder(find_study(words[0], options.root))
    study = read_study(folder.root)
    if trials is not None or not is_done(study):
        refuse_missing_packages(study.begun.recipe)
    return run_study(folder, options, trials)


def _trials_of(words: Sequence[str]) -> int | None:
    """N of `hpo.trials=N`, the only key of a study that may change. Raises `ConfigError` for another one."""
    trials = None
    for word in words:
        key, _, value = word.partition("=")
        if key != "hpo.trials":
            what = "is a key under which a study does not go on: its trials must not differ in it"
            raise ConfigError(Problem(word, what, "valid: hpo.trials=N; or begin a new study"))
        if not value.isdigit() or not int(value):
            raise ConfigError(Problem(word, "is not a number of trials", "hpo.trials=N, N > 0"))
        trials = int(value)
    return trials


def list_studies(options: Options) -> list[dict[str, object]]:
    """One row a study of the `runs/` folder, unreadable ones included."""
    from hpo.study.folder import studies
    from hpo.study.state import read_study
    from hpo.summary import StudyRow, study_row, unreadable_row

    def row(path: Path) -> StudyRow:
        try:
            return study_row(read_study(path))
        except ConfigError as error:
            return unreadable_row(path, error)

    return [asdict(row(path)) for path in studies(options.root)]


def _the_study(verb: str, words: Sequence[str], options: Options) -> Study:
    from hpo.study.folder import find_study
    from hpo.study.state import read_study

    if len(words) != 1:
        raise ConfigError(
            Problem(verb, "takes one study", f"{verb} STUDY, its folder or its name (see `list`)")
        )
    return read_study(find_study(words[0], options.root))
