"""Sealed runs whose worker is the stand-in, and the command that launches them as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from galley.rundir import RunFolder
from galley.schema import Launcher, Recipe
from galley.spec import ClusterFacts, CodeSnapshot, Layout, RunSpec
from tests.support import REPO, Finished, run_process

FACTS = ClusterFacts("host", 0, 0.0, 2, 8.0)
# The launching command, without the composition and sealing that precede it.
LAUNCH = """
import sys
from pathlib import Path
from galley.errors import GalleyError
from galley.rundir import RunFolder
from galley.system.machine import probe
from launchers.lifecycle.launch import launch
from launchers.lifecycle.prepare import prepare
folder = RunFolder(Path(sys.argv[1]))
flags = sys.argv[3:]
try:
    prepared = prepare(folder.read_spec(), folder, probe(), attempt=int(sys.argv[2]))
    sys.exit(launch(prepared, detach="detach" in flags, json="json" in flags))
except GalleyError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def make_spec(behavior: str = "succeed", ranks: int = 2, grace_s: float = 1.0, **env: str) -> RunSpec:
    launcher = Launcher(grace_s=grace_s, env={"STANDIN": behavior, **env})
    layout = Layout(1, ranks, ranks, "cpu", "gloo" if ranks > 1 else "none", 1, 32, 32 // ranks, 1)
    return RunSpec(Recipe(launcher=launcher), layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")


def make_run(root: Path, behavior: str = "succeed", ranks: int = 2, **env: str) -> RunFolder:
    """A sealed run whose ranks do what the function `behavior` of the stand-in does."""
    folder = RunFolder(root)
    package = folder.code / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("standin_worker.py"), package / "worker.py")
    folder.write_spec(make_spec(behavior, ranks, **env))
    return folder


def launch_argv(folder: RunFolder, *flags: str, attempt: int = 1) -> list[str]:
    return [sys.executable, "-P", "-c", LAUNCH, str(folder.root), str(attempt), *flags]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "100", **changes}


def run_launch(folder: RunFolder, *flags: str, attempt: int = 1) -> Finished:
    """The command, to its end."""
    argv = launch_argv(folder, *flags, attempt=attempt)
    return run_process(argv, env={"PYTHONPATH": str(REPO), "COLUMNS": "100"}, timeout=90)


def start_launch(folder: RunFolder, *flags: str, cwd: Path = REPO) -> subprocess.Popen[str]:
    """The command in a process of its own, its output in pipes."""
    return subprocess.Popen(
        launch_argv(folder, *flags), cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], Any], timeout: float = 120.0) -> Any:
    """The first true value of `condition`; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.05)
    return value


def hanging(folder: RunFolder, ranks: int = 2) -> bool:
    """Whether all ranks are up and hang."""
    return all((folder.root / f"pid-{rank}").exists() for rank in range(ranks))


def followed(folder: RunFolder, ranks: int = 2) -> bool:
    """Whether they hang, and the command that started them has written that down."""
    return hanging(folder, ranks) and bool(folder.read_handles())


def processes_of(folder: RunFolder) -> list[psutil.Process]:
    """All living processes that have the run folder on their command line: agent, ranks, commands."""
    root = str(folder.root)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words: list[str] = process.info["cmdline"] or []
        if root in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def end_all(folder: RunFolder) -> None:
    for process in processes_of(folder):
        process.send_signal(signal.SIGKILL)


def last_json(text: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] = json.loads(text.strip().splitlines()[-1])
    return value
