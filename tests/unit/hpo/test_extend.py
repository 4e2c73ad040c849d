"""`resume STUDY hpo.trials=N`: a study grows; everything else of it stays."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.options import Options
from cli.run import resume
from galley.errors import ConfigError
from galley.schema import Batch, Hpo, Recipe
from galley.spec import CodeSnapshot
from hpo import sweep
from hpo.study.event_log import Asked, Begun, Ended, EventLog, read_journal
from hpo.study.folder import StudyFolder
from hpo.study.state import Study, fold, read_study
from hpo.sweep import is_done

SPACE = {"seed": [1, 2, 3, 4]}


def begin(root: Path, **settings: Any) -> StudyFolder:
    """A study of two trials, both of which have ended, unless the settings say otherwise."""
    hpo = Hpo(**{"kind": "random", "space": SPACE, "objectives": ["eval/loss"], "trials": 2, **settings})
    recipe = Recipe(hpo=hpo, batch=Batch(global_size=8))
    folder = StudyFolder(root)
    with closing(EventLog(folder.journal)) as journal, journal.turn():
        journal.append(Begun(root.name, [], [], recipe, CodeSnapshot("0", None, False), 0.0))
        for number in range(2):
            journal.append(Asked(number, {"seed": number + 1}, 1.0))
            journal.append(Ended(number, "succeeded", 2.0, {"eval/loss": 1.0}))
    return folder


def extend(folder: StudyFolder, trials: int) -> Study:
    study = fold(folder, read_journal(folder.journal))
    with closing(EventLog(folder.journal)) as journal, journal.turn():
        journal.read()
        sweep._extend(study, journal, trials)
    return study


def test_a_study_that_is_done_goes_on(tmp_path: Path) -> None:
    folder = begin(tmp_path / "s")
    assert is_done(read_study(folder.root))
    for trials in (3, 5):
        assert extend(folder, trials).target == trials
        found = read_study(folder.root)
        assert (found.target, found.hpo.trials, len(found.trials), is_done(found)) == (
            trials,
            trials,
            2,
            False,
        )
    assert found.begun.recipe.hpo.trials == 2, "as it was begun"


@pytest.mark.parametrize(
    ("settings", "trials", "said"),
    [
        ({"trials": 3}, 2, "has 2 of 3 trials, and can only grow"),
        ({"kind": "grid"}, 5, "5 trials, but the grid has 4 points"),
        ({"kind": "grid", "trials": None}, 5, "has all points of its grid"),
        ({"space": {"optim.lr": "interval(1e-5,1e-3)"}, "repeats": 2}, 5, "no whole number of points"),
        ({"kind": "pbt"}, 8, "a population has as many trials as its members have intervals"),
    ],
)
def test_what_a_study_cannot_have_is_refused(
    settings: dict[str, Any], trials: int, said: str, tmp_path: Path
) -> None:
    folder = begin(tmp_path / "s", **settings)
    before = folder.journal.read_bytes()
    with pytest.raises(ConfigError, match=said):
        extend(folder, trials)
    assert folder.journal.read_bytes() == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lr=1", r"valid: hpo\.trials=N"),
        ("hpo.parallel=2", r"valid: hpo\.trials=N"),
        ("hpo.trials=0", "is not a number of trials"),
        ("hpo.trials=many", "is not a number of trials"),
    ],
)
def test_no_other_key_changes(word: str, said: str, tmp_path: Path) -> None:
    folder = begin(tmp_path / "s")
    with pytest.raises(ConfigError, match=said):
        resume([str(folder.root), word], Options())
