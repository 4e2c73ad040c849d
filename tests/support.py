"""What tests of every kind share: the command as a real process, and what they may rely on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Recipe
from galley.system.pdeathsig import bound_to_me

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finished:
    """A command that ended: exit code (negative: the signal), standard output, standard error."""

    rc: int
    out: str
    err: str


def run_process(
    argv: Sequence[str | Path],
    *,
    cwd: Path = REPO,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 120,
) -> Finished:
    """Run a command in a session of its own; past `timeout` seconds its whole process group is killed.

    `env` is laid over the environment of the tests; a null value takes a variable away.
    Raises `AssertionError` with the output when the time is over.
    """
    merged = {**os.environ, **(env or {})}
    process = subprocess.Popen(
        [str(word) for word in argv],
        cwd=cwd,
        env={name: value for name, value in merged.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=bound_to_me(),  # a test run that is killed leaves nothing behind
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done after {timeout} s: {argv}\n{out}\n{err}") from None
    return Finished(process.returncode, out, err)


def run_galley(
    args: Sequence[str | Path],
    *,
    cwd: Path = REPO,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 120,
) -> Finished:
    """`python -P train.py ARGS` as a user runs it, from any folder."""
    argv = [sys.executable, "-P", REPO / "train.py", *args]
    return run_process(argv, cwd=cwd, env=env, timeout=timeout)


def make_recipe(base: Recipe | None = None, /, **sections: Any) -> Recipe:
    """The recipe of a test: `base`, or all defaults, with other values. Nothing is composed or checked.

    A mapping changes keys of a section, and of sections in it: `make_recipe(data={"max_length": 8})`. Any
    other value takes the place of the section, and so does a mapping where the recipe has a mapping.
    """
    changed: Recipe = _changed(Recipe() if base is None else base, sections)
    return changed


def _changed(section: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a dataclass, with other values in it and in the dataclasses that it holds."""
    own = {name: getattr(section, name) for name in values}
    inner = {name for name, value in values.items() if is_dataclass(own[name]) and isinstance(value, Mapping)}
    changed = {name: _changed(own[name], values[name]) for name in inner}
    return replace(section, **{**values, **changed})


def user_recipe(folder: Path, text: str, name: str = "mine") -> Path:
    """The folder, with a recipe in it: what `--config-dir` names."""
    file = folder / "recipes" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return folder


def problems(*overrides: str, user_dir: Path | None = None) -> list[str]:
    """What is wrong with a command, as a user reads it; fails if nothing is."""
    with pytest.raises(ConfigError) as caught:
        compose_recipe(overrides, [user_dir] if user_dir else [])
    return [str(problem) for problem in caught.value.problems]


def not_available(what: str, suites: str) -> None:
    """A failure in CI, where nothing may be missing; elsewhere a skip that names what did not run."""
    message = f"{what}: not run: {suites}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def require_program(name: str, suites: str) -> str:
    """Path of a system program (see scripts/system-packages.txt), or `not_available`."""
    found = shutil.which(name)
    if found is None:
        not_available(f"the program {name} is not installed", suites)
    return str(found)


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface, free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def free_port() -> int:
    return free_ports(1)[0]
