"""Optuna's storage is lost in the middle of a sweep; the study's journal fills it again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hpo import controller
from hpo.backends.optuna_storage import open_storage
from tests.integration.hpo import lab
from tests.integration.local.standin import wait_until

WORDS = ("hpo=optuna", "hpo.trials=6", "hpo.parallel=2")


def remove(storage: Path) -> None:
    storage.unlink()


def replace_by_another(storage: Path) -> None:
    other = storage.with_name("other")
    other.touch()
    other.replace(storage)


def delete_from_file(storage: Path) -> None:
    optuna.delete_study(study_name="study", storage=open_storage(None, storage.parent))


def delete_from_database(storage: Path) -> None:
    optuna.delete_study(study_name="study", storage=f"sqlite:///{storage}")


def damage_before(number: int, damage: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """When trial `number` is about to be asked, nobody else uses the storage. Returns the numbers asked."""
    asked: list[int] = []
    ask = controller.Controller._ask_now

    def ask_later(self: controller.Controller) -> int | None:
        if len(self._study.trials) == number and number not in asked:
            damage()
        asked.append(len(self._study.trials))
        return ask(self)

    monkeypatch.setattr(controller, "ASK_AGAIN_S", 0.3)
    monkeypatch.setattr(controller.Controller, "_ask_now", ask_later)
    return asked


@pytest.mark.parametrize(
    ("storage", "damage", "reason"),
    [
        ("study/optuna.log", remove, "No such file or directory"),
        ("study/optuna.log", replace_by_another, "it was replaced by another file"),
        ("study/optuna.log", delete_from_file, "the study is not there any more"),
        ("optuna.db", remove, "attempt to write a readonly database"),
        ("optuna.db", delete_from_database, "the study is not there any more"),
    ],
)
def test_a_storage_that_is_lost_is_filled_again(
    tmp_path: Path,
    storage: str,
    damage: Callable[[Path], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / storage
    words = [f"hpo.storage=sqlite:///{path}"] if path.suffix == ".db" else []
    folder = lab.make_study(tmp_path / "study", *WORDS, *words)
    asked = damage_before(4, lambda: damage(path), monkeypatch)
    with caplog.at_level(logging.WARNING, "galley"):
        lab.run(folder)
    assert not lab.faults(folder, 6)
    assert asked.count(4) > 1, "it was lost at the first"
    said = [record.getMessage() for record in caplog.records if "asking again" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(("hpo.storage: ", f"{path}: "))
    assert reason in said[0]


def test_a_storage_that_another_study_has_taken_waits_until_it_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Other than at the start of a sweep, where it is refused: there are trials to lose."""
    database = tmp_path / "optuna.db"
    lab.run(
        lab.make_study(tmp_path / "other/study", *WORDS, f"hpo.storage=sqlite:///{tmp_path / 'other.db'}")
    )
    folder = lab.make_study(tmp_path / "study", *WORDS, f"hpo.storage=sqlite:///{database}", "seed=9")
    damage_before(4, lambda: (tmp_path / "other.db").replace(database) and None, monkeypatch)

    def move_away() -> None:
        wait_until(lambda: "it belongs to another study; move it away" in caplog.text)
        database.unlink()

    mended = threading.Thread(target=move_away)
    mended.start()
    with caplog.at_level(logging.WARNING, "galley"):
        lab.run(folder)
    mended.join()
    assert not lab.faults(folder, 6)
