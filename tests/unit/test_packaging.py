"""The set-up files: every requirement is pinned once, and what is installed is what is pinned."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support import REPO, require_program, run_process

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> list[Requirement]:
    lines = (REPO / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned() -> dict[str, Version]:
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins()}


def requirements() -> list[Requirement]:
    lists = [PROJECT["dependencies"], *(wanted for name, wanted in EXTRAS.items() if name != "all")]
    return [Requirement(line) for wanted in lists for line in wanted]


def test_pins_are_exact_and_single() -> None:
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins())
    assert len(pinned()) == len(pins())


@pytest.mark.parametrize("wanted", requirements(), ids=str)
def test_every_requirement_has_a_pin_within_its_range(wanted: Requirement) -> None:
    assert wanted.specifier.contains(pinned()[canonicalize_name(wanted.name)])


def test_all_names_every_extra() -> None:
    (everything,) = (Requirement(line) for line in EXTRAS["all"])
    assert everything.extras == set(EXTRAS) - {"all"}


def test_installed_versions_are_the_pinned_ones() -> None:
    drift = {}
    for name, wanted in pinned().items():
        try:
            found = Version(version(name)).public
        except PackageNotFoundError:
            continue  # an extra that is not installed
        if found != wanted.public:
            drift[name] = f"pinned {wanted}, installed {found}"
    assert not drift, "run `make setup`"


def test_setup_installs_everything_that_galley_needs() -> None:
    lists = [PROJECT["dependencies"], *(EXTRAS[name] for name in ("train", "embedded", "ray", "dev"))]
    for line in (line for wanted in lists for line in wanted):
        assert version(Requirement(line).name)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The set-up files alone, in a folder of their own."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPO / name, tmp_path)
    shutil.copytree(REPO / "scripts", tmp_path / "scripts")
    return tmp_path


def stand_in(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_setup_refuses_an_older_python_in_one_line(checkout: Path) -> None:
    old = checkout / "python3.10"
    stand_in(old, '[ "$1" = -V ] && echo "Python 3.10.4" && exit 0\nexit 1')
    done = run_process(["make", "-s", "setup", f"PYTHON={old}"], cwd=checkout)
    first = done.err.splitlines()[0]
    assert done.rc == 2
    assert "Python 3.11 or newer is needed" in first
    assert "Python 3.10.4" in first
    assert not (checkout / ".venv").exists()


def test_setup_installs_once_and_again_after_a_change(checkout: Path) -> None:
    """With a stand-in for the interpreter that notes what it was asked for."""
    calls = checkout / "calls"
    python = checkout / ".venv" / "bin" / "python"
    stand_in(python, f'echo "$@" >>{calls}')

    def installs() -> int:
        calls.write_text("")
        assert run_process(["make", "-s", "setup"], cwd=checkout).rc == 0
        return calls.read_text().count(" install ")

    assert installs() == 2  # the project, and the embedded model without what it declares
    assert installs() == 0
    with (checkout / "constraints.txt").open("a") as stream:
        stream.write("# changed\n")
    assert installs() == 2
    (checkout / ".setup" / "installed").unlink()  # as an interrupted installation leaves it
    assert installs() == 2


@pytest.fixture
def bare_path(tmp_path: Path) -> dict[str, str | None]:
    """A PATH with what the script itself uses, and none of the programs it looks for; not root."""
    folder = tmp_path / "bin"
    for name in ("bash", "env", "grep", "dirname"):
        stand_in(folder / name, f'exec {shutil.which(name)} "$@"')
    stand_in(folder / "id", "echo 1000")
    return {"PATH": str(folder), "CI": None}


def test_missing_programs_are_named_with_their_suites(bare_path: dict[str, str | None]) -> None:
    script = REPO / "scripts" / "system_packages.sh"
    done = run_process([shutil.which("bash") or "bash", script], env=bare_path)
    assert done.rc == 0, done.err
    assert "shellcheck (package shellcheck): not run: tests/unit/launchers/slurm" in done.err


def test_in_ci_a_missing_program_is_a_failure(bare_path: dict[str, str | None]) -> None:
    script = REPO / "scripts" / "system_packages.sh"
    done = run_process([shutil.which("bash") or "bash", script], env={**bare_path, "CI": "true"})
    assert done.rc == 1


def test_ci_runs_the_tests() -> None:
    script = REPO / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_shell_scripts_are_sound() -> None:
    scripts = sorted((REPO / "scripts").glob("*.sh"))
    assert scripts
    shellcheck = require_program("shellcheck", "tests/unit/test_packaging.py (shell scripts)")
    done = run_process([shellcheck, *scripts, REPO / ".ci" / "run"])
    assert done.rc == 0, done.out
