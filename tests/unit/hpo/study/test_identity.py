"""A study of the same name in a storage is adopted only where it is the same study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from galley.errors import ConfigError
from galley.schema import Hpo, Recipe
from galley.spec import CodeSnapshot
from hpo.backends.base import NoAnswerError, Search
from hpo.backends.optuna import OptunaBackend
from hpo.space.dimensions import read_space
from hpo.study.event_log import Begun
from hpo.study.identity import study_id
from hpo.study.values import Constraint, Objective, Trial

LOSS, SPEED = Objective("eval/loss", "minimize"), Objective("samples_per_s", "maximize")
SPACE = {"optim.lr": {"low": 1e-5, "high": 1e-3, "log": True}, "batch.global_size": [8, 16]}


def search(folder: Path, database: str, **changes: Any) -> Search:
    """As a machine whose folder is also called `first` makes it."""
    settings = Hpo(kind="optuna", trials=4, sampler="random", storage=database)
    return replace(Search("first", folder, read_space(SPACE), (LOSS,), (), 1, settings, id="one"), **changes)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"id": "two"}, "id there: one, here: two"),
    ({"space": read_space({"optim.lr": {"low": 1e-6, "high": 1e-3, "log": True}})},
     r"space there: optim.lr float 1e-05 to 0.001 log; batch.global_size in \[8, 16\], "
     "here: optim.lr float 1e-06 to 0.001 log"),
    ({"objectives": (replace(LOSS, direction="maximize"),)},
     "objectives there: minimize eval/loss, here: maximize eval/loss"),
    ({"objectives": (LOSS, SPEED)}, "directions there: minimize, here: minimize, maximize"),
    ({"constraints": (Constraint("wall_s", max=9.0),)}, "constraints there: , here: wall_s max 9.0"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), CHANGES, ids=["id", "space", "way", "count", "constraint"])
@pytest.mark.parametrize("dry", [True, False], ids=["plan", "run"])
def test_a_study_of_the_same_name_that_differs_is_refused_with_both_sides(
    tmp_path: Path, database: str, changes: dict[str, Any], said: str, dry: bool
) -> None:
    OptunaBackend(search(tmp_path, database), []).close()
    before = (tmp_path / "studies.db").read_bytes()
    with pytest.raises(ConfigError, match=said) as raised:
        OptunaBackend(search(tmp_path, database, dry=dry, **changes), [])
    assert "choose another hpo.study_dir" in str(raised.value)
    assert (tmp_path / "studies.db").read_bytes() == before


def test_the_same_study_is_gone_on_with(tmp_path: Path, database: str) -> None:
    backend = OptunaBackend(search(tmp_path, database), [])
    params = backend.ask(0)
    assert params is not None
    backend.close()
    again = OptunaBackend(search(tmp_path, database), [Trial(0, "running", params)])
    assert again.ask(1) is not None
    again.close()


@pytest.mark.parametrize("ways", [["minimize"], ["maximize"], ["minimize", "minimize"]])
def test_a_study_that_galley_did_not_begin_is_refused(tmp_path: Path, database: str, ways: list[str]) -> None:
    """Also without a trial, unless it is exactly what a controller leaves that was killed at once."""
    made = optuna.create_study(study_name="first", storage=database, directions=ways)
    if ways == ["minimize"]:
        OptunaBackend(search(tmp_path, database), []).close()
        assert made.user_attrs["galley.id"] == "one"
        made = optuna.create_study(study_name="second", storage=database, directions=ways)
        made.ask()
    name = made.study_name
    with pytest.raises(ConfigError, match="it was not begun by Galley; here: one"):
        OptunaBackend(search(tmp_path, database, name=name), [])


@pytest.mark.parametrize("given", [{"optim.lr": 0.5}, {"batch.global_size": 32}], ids=str)
def test_a_point_from_elsewhere_outside_the_space_is_not_trained(
    tmp_path: Path, database: str, given: dict[str, Any]
) -> None:
    backend = OptunaBackend(search(tmp_path, database), [])
    optuna.load_study(study_name="first", storage=database).enqueue_trial(given)
    (key,) = given
    with pytest.raises(ConfigError, match=f"its trial 0 has {key}=.*not in the space"):
        backend.ask(0)
    backend.close()


def test_a_study_is_known_by_when_and_with_what_it_was_begun() -> None:
    begun = Begun("first", ["hpo=optuna"], [], Recipe(), CodeSnapshot("0", None, False), 1.5)
    others = [replace(begun, name="b"), replace(begun, time=1.6), replace(begun, words=[])]
    assert len({study_id(each) for each in (begun, *others)}) == 4
    assert study_id(replace(begun)) == study_id(begun)


@pytest.mark.parametrize("dry", [True, False], ids=["plan", "run"])
def test_what_a_driver_says_of_a_database_has_no_part_of_its_password(
    dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an `@` in the password SQLAlchemy takes what follows for the host, and the driver names it."""
    monkeypatch.setenv("STUDY_DB", "postgresql://me:pa@not-to-be-told@host.invalid/db")
    with pytest.raises((ConfigError, NoAnswerError)) as raised:
        OptunaBackend(search(tmp_path, "env:STUDY_DB", dry=dry), [])
    assert "hpo.storage" in str(raised.value)
    assert "not-to-be-told" not in str(raised.value)
