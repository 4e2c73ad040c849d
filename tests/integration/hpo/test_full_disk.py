"""A sweep on a full disk ends, at once and with a message, instead of failing one trial after another."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from galley.errors import DiskFullError
from hpo.study.state import read_study
from tests.integration.hpo import lab
from tests.integration.local.standin import wait_until
from tests.integration.local.test_full_disk import fill

WORDS = ("hpo=random", "hpo.trials=6", "hpo.parallel=2")


def test_a_trial_without_room_is_no_failed_trial(tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, "launcher.env.STANDIN_STEP_S=0.05")
    (folder.root / "events.json").write_text(json.dumps([[2, 1, "disk_full"]]))
    with pytest.raises(DiskFullError) as caught:
        lab.run(folder)
    assert "trial 2: the stand-in has disk_full" in str(caught.value)
    assert f"make room, then `resume {folder.root}`" in str(caught.value)
    assert not lab.living(folder)
    study = read_study(folder.root)
    assert study.trials[2].state == "running", "in the journal: it is not over"
    lab.run(folder)
    assert not lab.faults(folder, 6)


def test_a_trial_that_never_has_room_does_not_hold_the_others_up(tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / "study", *WORDS, "hpo.retries=1")
    (folder.root / "events.json").write_text(json.dumps([[2, 9, "disk_full"]]))
    with pytest.raises(DiskFullError):
        lab.run(folder)
    study = lab.run(folder)
    assert [trial.state for trial in study.trials] == [*["succeeded"] * 2, "failed", *["succeeded"] * 3]
    assert study.trials[2].message.startswith("disk_full, 2 times: ")


def test_what_the_sweep_itself_has_no_room_for(small_disk: Path) -> None:
    folder = lab.make_study(small_disk / "study", *WORDS, "launcher.env.STANDIN_STEP_S=0.2")
    ballast: list[Path] = []

    def fill_it() -> None:
        wait_until(lambda: sum(trial.state == "succeeded" for trial in read_study(folder.root).trials) == 2)
        ballast.append(fill(small_disk))

    filling = threading.Thread(target=fill_it)
    filling.start()
    with pytest.raises(DiskFullError, match=r"No space left on device[^`]*make room, then `resume .*study`"):
        lab.run(folder)
    filling.join()
    assert not lab.living(folder)
    assert not [trial for trial in read_study(folder.root).trials if trial.state == "failed"]
    ballast[0].unlink()
    study = lab.run(folder)
    assert [trial.state for trial in study.trials] == ["succeeded"] * 6
