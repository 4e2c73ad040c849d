"""`init DIR`: a project of one's own, with a recipe that runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from cli.options import Options
from galley.errors import ConfigError, Problem
from galley.rundir import write_atomic
from galley.system.os_errors import writing

README = """\
# {name}

`galley recipe=mine`, typed in this folder, trains `recipes/mine.yaml`; `runs/` keeps what comes out.
`galley recipes` lists all recipes, yours and those that come with Galley, which yours may extend.
`conf/GROUP/OPTION.yaml` is chosen by `GROUP=OPTION`, and `plugins/` holds tasks and models of your own.
"""
RECIPE = """\
# galley recipe=mine
#
# The recipe `quickstart` of Galley in 20 steps, with the data and the task of this project.
defaults:
  - /recipes/quickstart@_global_
  - override /data: mine

plugins: [plugins]
task:
  kind: mean_recall:MeanRecall
train:
  max_steps: 20
"""
DATA = """\
# The data of this project, data=mine. For files of your own write `path: FOLDER` in place of `name`.
name: embedded:pydoc_pairs
max_length: 32
"""
TASK = '''\
"""A task of this project: the classification of Galley, which also reports the mean recall of the classes."""

import numpy as np
from trainer.tasks.sequence_classification import SequenceClassification


class MeanRecall(SequenceClassification):
    reports = {"mean_recall": "max", "accuracy": "max", "f1": "max"}

    def metrics(self, predictions, dataset):
        found, labels = super().metrics(predictions, dataset), dataset.labels
        right = predictions.argmax(axis=1) == labels
        recalls = [right[labels == label].mean() for label in np.unique(labels)]
        return {**found, "mean_recall": float(np.mean(recalls))}
'''
FILES = {
    ".gitignore": "runs/\n__pycache__/\n",
    "README.md": README,
    "conf/data/mine.yaml": DATA,
    "plugins/mean_recall.py": TASK,
    "recipes/mine.yaml": RECIPE,
}


def init(words: Sequence[str], options: Options) -> int:
    """Write a project into a new or an empty folder; a repository without files counts as empty."""
    if len(words) != 1 or "=" in words[0]:
        raise ConfigError(Problem("init", "takes one folder and nothing else", "init DIR"))
    folder = Path(words[0]).expanduser()
    with writing(str(folder)):
        _refuse_what_is_there(folder)
        for name, text in FILES.items():
            write_atomic(folder / name, text.replace("{name}", folder.resolve().name))
    if options.json:
        print(json.dumps({"project": str(folder.resolve()), "files": sorted(FILES)}))
        return 0
    for name in FILES:
        print(folder / name)
    print(f"run it: cd {shlex.quote(str(folder))} && galley recipe=mine")
    return 0


def _refuse_what_is_there(folder: Path) -> None:
    if not folder.exists():
        return
    hint = "choose a new folder"
    if not folder.is_dir():
        raise ConfigError(Problem(f"init {folder}", "is a file", hint))
    there = sorted(path.name for path in folder.iterdir() if path.name != ".git")
    if there:
        hint += f"; or only add a recipe: recipes cp quickstart {folder / 'recipes' / 'mine.yaml'}"
        raise ConfigError(Problem(f"init {folder}", f"is not empty, it has {there[0]}", hint))
