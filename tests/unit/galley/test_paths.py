"""The command that runs a snapshot with its own code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from cli.main import main
from galley.paths import command, command_of
from tests.support import REPO, run_process

# How train.py began before it put its own folder first on the path.
OLDER = "import sys\n\nfrom cli.main import main\n\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """As much of a snapshot as `--version` needs, of a version of its own."""
    code = tmp_path / "a run" / "code"
    for package in ("cli", "galley"):
        shutil.copytree(REPO / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "train.py", code)
    (code / "galley" / "__init__.py").write_text('__version__ = "0.0.7"\n')
    return code


def version_of(*argv: str | Path) -> str:
    done = run_process(argv, env={"PYTHONPATH": None})
    assert done.rc == 0, done.err
    return done.out.strip()


def test_train_py_of_a_snapshot_runs_its_own_code(snapshot: Path) -> None:
    """An editable installation has the checkout on the path, too."""
    assert version_of(sys.executable, "-P", snapshot / "train.py", "--version") == "galley 0.0.7"


def test_command_of_an_older_snapshot_runs_its_own_code(snapshot: Path) -> None:
    (snapshot / "train.py").write_text(OLDER)
    assert version_of("bash", "-c", f"{command_of(snapshot)} --version") == "galley 0.0.7"


def test_the_command_is_one_that_works_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert command() == "python train.py"
    monkeypatch.chdir(tmp_path)
    assert command() == f"python {REPO / 'train.py'}"
    monkeypatch.setattr("galley.paths.is_checkout", lambda: False)
    assert command() == "galley"


def test_help_is_there_in_a_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["--help"]) == 0
