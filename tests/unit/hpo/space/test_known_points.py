"""Points that are known before a sweep are tried first; points that were drawn are not drawn again."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.spec import CodeSnapshot
from hpo.backends import make_backend
from hpo.check import sweep_problems
from hpo.space.dimensions import read_space
from hpo.space.known_points import read_known_points
from hpo.space.points import enumerate_points, point_text
from hpo.study.event_log import Begun, Ended, EventLog
from hpo.study.folder import StudyFolder
from hpo.study.shared_study import Ledger
from hpo.study.state import Study, read_study
from hpo.study.values import Params
from hpo.sweep import _search
from tests.support import make_recipe

SPACE: dict[str, Any] = {
    "optim.lr": {"low": 0.1, "high": 0.5, "step": 0.1},
    "strategy": ["ddp", "zero2"],
    "strategy.offload_optimizer": {"choices": ["none", "cpu"], "when": {"strategy": "zero2"}},
}
SEARCH = make_recipe(hpo={"space": SPACE, "objectives": ["eval/loss"], "trials": 8}, batch={"global_size": 8})
POINTS = """
- {optim.lr: 0.3, strategy: zero2, strategy.offload_optimizer: cpu}
- {optim.lr: '1e-1', strategy: ddp}
"""
READ: list[Params] = [
    {"optim.lr": 0.3, "strategy": "zero2", "strategy.offload_optimizer": "cpu"},
    {"optim.lr": 0.1, "strategy": "ddp"},
]


def write(folder: Path, text: str = POINTS) -> str:
    (folder / "points.yaml").write_text(text)
    return str(folder / "points.yaml")


def test_points_are_read_as_the_sweep_writes_them(tmp_path: Path) -> None:
    dims = read_space(SPACE)
    assert read_known_points(write(tmp_path), dims) == READ
    assert read_known_points(write(tmp_path, json.dumps(READ)), dims) == READ
    (whole,) = read_known_points(write(tmp_path, "[{seed: 8.0}]"), read_space({"seed": "interval(1,9)"}))
    assert (whole, type(whole["seed"])) == ({"seed": 8}, int)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{optim.l: 0.1, strategy: ddp}]", "did you mean 'optim.lr'"),
        ("[{optim.lr: 0.1}]", "point 0: has no value of 'strategy'"),
        (
            "[{optim.lr: 0.15, strategy: ddp}]",
            r"0.15 is no value of 'optim.lr'\n.*0.1 to 0.5 in steps of 0.1",
        ),
        ("[{optim.lr: 0.6, strategy: ddp}]", "0.6 is no value of 'optim.lr'"),
        ("[{optim.lr: true, strategy: ddp}]", "True is no value of 'optim.lr'"),
        ("[{optim.lr: 0.1, strategy: fsdp}]", r"'fsdp' is no value of 'strategy'\n.*valid: ddp, zero2"),
        ("[{optim.lr: 0.1, strategy: ddp, strategy.offload_optimizer: cpu}]", "does not exist at this point"),
        ("[{optim.lr: 0.1, strategy: ddp}, {strategy: ddp, optim.lr: 0.1}]", "point 1: is there twice"),
        ("[3]", "3 is not a point"),
        ("{a: 1}", "is not a list of points"),
        ("[", "cannot be read"),
    ],
)
def test_a_point_outside_the_space_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_known_points(write(tmp_path, text), read_space(SPACE))


def test_what_is_wrong_with_them_is_a_problem_of_the_sweep(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert not sweep_problems(make_recipe(SEARCH, hpo={"kind": "random", "points": file}))
    several = ({"trials": 1}, {"trials": 3, "repeats": 3}, {"points": str(tmp_path / "none")})
    asked = [{"kind": "random", "points": file, **changes} for changes in several]
    said = [sweep_problems(make_recipe(SEARCH, hpo=settings))[0].what for settings in asked]
    assert said == [
        "has 2 points, more than hpo.trials=1 can try",
        "has 2 points, more than hpo.trials=3 can try",
        "cannot be read: No such file or directory",
    ]
    assert "members draw their own" in str(
        sweep_problems(make_recipe(SEARCH, hpo={"kind": "pbt", "points": file}))
    )


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("random", None), ("grid", None), ("ray", None), ("optuna", None), ("optuna", "grid")],
)
@pytest.mark.parametrize("repeats", [1, 2])
def test_known_points_come_first_in_every_backend(
    kind: Any, sampler: Any, repeats: int, tmp_path: Path
) -> None:
    """Asked in the controller's way, by two controllers, one after the other."""
    settings = {"kind": kind, "sampler": sampler, "repeats": repeats, "trials": 4 * repeats}
    asked = make_recipe(SEARCH, hpo=settings)
    begun = Begun("s", [], [], asked, CodeSnapshot("0", None, False), 0.0, READ)
    folder = StudyFolder(tmp_path / "s")
    with closing(EventLog(folder.journal)) as journal, journal.turn():
        journal.append(begun)
    for _ in range(2):
        with closing(EventLog(folder.journal)) as journal:
            journal.read()
            study = read_study(folder.root)
            with closing(Ledger(study, journal, partial(make_backend, _search(study)))) as ledger:
                for _ in range(2 * repeats):
                    number = ledger.ask()
                    assert number is not None
                    ledger.end(Ended(number, "succeeded", 1.0, {"eval/loss": float(number)}))
    trials = read_study(folder.root).trials
    points = [trial.params for trial in trials if trial.repeat_of is None]
    assert points[:2] == READ
    assert [trial.repeat_of for trial in trials] == [
        n - n % repeats if n % repeats else None for n in range(4 * repeats)
    ]
    assert all(trial.params == points[trial.number // repeats] for trial in trials)
    if "grid" in (kind, sampler):
        assert len({point_text(point) for point in points}) == 4


def test_a_random_search_draws_no_point_twice_while_there_are_others(tmp_path: Path) -> None:
    study = Study(
        StudyFolder(tmp_path),
        Begun("s", [], [], make_recipe(SEARCH, hpo={"kind": "random"}), CodeSnapshot("0", None, False), 0.0),
    )
    backend = make_backend(_search(study), [])
    drawn = [backend.ask(number) for number in range(15)]
    assert {point_text(point or {}) for point in drawn} == {
        point_text(point) for point in enumerate_points(study.space)
    }
    assert backend.ask(15) is not None, "then they come again"


def test_a_point_that_comes_again_is_noticed(tmp_path: Path) -> None:
    from hpo.study.event_log import Asked

    study = Study(
        StudyFolder(tmp_path),
        Begun("s", [], [], make_recipe(SEARCH, hpo={"kind": "random"}), CodeSnapshot("0", None, False), 0.0),
    )
    for number, (lr, repeat_of) in enumerate([(0.1, None), (0.1, 0), (0.2, None), (0.1, None)]):
        assert not study.apply(Asked(number, {"optim.lr": lr, "strategy": "ddp"}, 0.0, repeat_of))
    found = [study.earlier(trial) for trial in study.trials]
    assert [None if trial is None else trial.number for trial in found] == [None, None, None, 0]
