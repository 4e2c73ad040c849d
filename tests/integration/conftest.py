from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from galley.cli import main
from tests.integration.reference import train

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def galley(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process: exit code, standard output, standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def two_ranks_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that other launchers must equal."""
    folder = tmp_path_factory.mktemp("here") / "run"
    train(folder, "cluster.procs_per_node=2")
    return folder
