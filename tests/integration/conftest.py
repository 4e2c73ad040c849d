from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import main
from galley.rundir import RunFolder
from galley.spec import RunSpec
from tests.integration.reference import train

Command = Callable[..., tuple[int, str, str]]
Finished = Callable[..., RunFolder]


@pytest.fixture
def galley(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process: exit code, standard output, standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that is trained once for all tests that compare themselves with it; none writes into it.

    `finished(spec, TINY_DROPOUT="0")`: the same spec in the same environment is the same folder.
    """
    from tests.integration.train import tiny

    known: dict[tuple[str, ...], RunFolder] = {}

    def run(spec: RunSpec, **environ: str) -> RunFolder:
        key = (spec.sha256, *(f"{name}={value}" for name, value in sorted(environ.items())))
        if key not in known:
            root = tmp_path_factory.mktemp(f"finished-{spec.recipe.strategy.name}")
            known[key] = tiny.train(root, spec, **environ)
        return known[key]

    return run


@pytest.fixture(scope="session")
def two_ranks_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that other launchers must equal; one for all processes of the tests."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = RunFolder(shared / "two-ranks-here")
    with (shared / "two-ranks-here.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.result_file.exists():
            train(folder.root, "cluster.procs_per_node=2")
    return folder.root
