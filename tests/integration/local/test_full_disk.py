"""A folder that cannot be written, and a disk that is full: a message, nothing half-made, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import launchers.lifecycle.launch
from launchers.lifecycle.launch import submit
from launchers.lifecycle.prepare import prepare
from launchers.local.launcher import LocalLauncher
from tests.integration.conftest import Command
from tests.integration.local.standin import (
    FACTS,
    followed,
    make_run,
    processes_of,
    run_launch,
    start_launch,
    wait_until,
)
from tests.integration.reference import SMALL_BERT

WORDS = (
    *("strategy=single", "train.max_steps=2", "data.max_samples=64", "checkpoint.model=false"),
    *("eval.enabled=false", *SMALL_BERT),
)
SWEEP = ["hpo=random", "hpo.trials=1", "optim.lr=interval(1e-5,1e-3)", "hpo.objectives=[train/loss]"]


def fill(disk: Path) -> Path:
    """Until not a byte more fits."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as stream:
        for size in (2**20, 2**12):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
    return ballast


@pytest.mark.parametrize("words", [[], SWEEP], ids=["run", "sweep"])
def test_a_folder_that_cannot_be_written_is_named(galley: Command, words: list[str]) -> None:
    code, _, said = galley(*WORDS, *words, "run_dir=/proc/nothing/run")
    assert code == 2
    assert "nothing was started" in said
    assert "=/proc/nothing/run: cannot be written: No such file or directory" in said


@pytest.mark.parametrize("words", [[], SWEEP], ids=["run", "sweep"])
def test_a_folder_that_does_not_fit_is_not_in_the_way_of_the_next(
    galley: Command, small_disk: Path, words: list[str]
) -> None:
    ballast = fill(small_disk)
    run_dir = f'run_dir="{small_disk / "run"}"'
    for _ in range(2):
        code, _, said = galley(*WORDS, *words, run_dir)
        assert code == 2
        assert f"{small_disk / 'run'}: cannot be written: No space left on device" in said
        assert not (small_disk / "run").exists()
    ballast.unlink()
    assert galley(*WORDS, *words, run_dir)[0] == 0


def test_a_recipe_that_cannot_be_written_is_named(galley: Command) -> None:
    code, _, said = galley("recipes", "cp", "quickstart", "/proc/nothing/mine.yaml")
    assert code == 2
    assert "/proc/nothing/mine.yaml: cannot be written: No such file or directory" in said


def test_what_was_started_but_cannot_be_recorded_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run", "hang", ranks=1)

    def find_no_room(*_: object) -> None:
        wait_until((folder.root / "pid-0").exists)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(launchers.lifecycle.launch, "record", find_no_room)
    with pytest.raises(OSError, match="No space left"):
        submit(prepare(folder.read_spec(), folder, FACTS, launcher=LocalLauncher()))
    assert processes_of(folder) == []


def test_a_disk_that_is_full_when_the_run_ends_is_named_and_the_run_can_be_resumed(small_disk: Path) -> None:
    folder = make_run(small_disk / "run", "hang_once", ranks=1)
    command = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    ballast = fill(small_disk)
    for process in processes_of(folder):
        if process.pid != command.pid:
            process.kill()
    _, said = command.communicate(timeout=60)
    assert command.returncode == 4
    assert f"{folder.root}/result.json: No space left on device" in said
    assert "rank 0 was killed by SIGKILL" in said, "what it could not write down"
    assert f"make room, then `resume {folder.root}`" in said
    assert "Traceback" not in said
    assert processes_of(folder) == []
    ballast.unlink()
    assert run_launch(folder, attempt=2).rc == 0
