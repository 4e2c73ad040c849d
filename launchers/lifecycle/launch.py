"""Launching: plan, write the plan down, submit, follow, show. In this process, or in a detached one."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from dataclasses import asdict, replace
from typing import IO

from galley.errors import SubmissionError
from galley.json_numbers import standard
from galley.paths import ROOT
from galley.report.display import make_display
from galley.report.plot import draw
from galley.report.summary import show_failure, show_result
from galley.rundir import RunFolder, write_atomic
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunResult, RunSpec, to_json
from galley.system import proc
from galley.system.os_errors import resumable
from launchers import make_launcher
from launchers.base import Launcher
from launchers.lifecycle import run_lock
from launchers.lifecycle.attempt_store import certain_handle, record
from launchers.lifecycle.result import result_of
from launchers.lifecycle.supervise import catch_interrupts, follow

_DETACH_TIMEOUT_S = 60.0


def launch(
    spec: RunSpec,
    folder: RunFolder,
    facts: ClusterFacts,
    *,
    attempt: int = 1,
    detach: bool = False,
    json: bool = False,
) -> int:
    """Run the sealed spec in its folder; returns the exit code of the command.

    The folder holds run.json and code/ already. With `detach` it returns once the job is
    submitted; unless a scheduler owns it, a process in a session of its own follows it.

    Raises:
        SubmissionError: the launcher refused, or another command is running this folder.
    """
    folder = RunFolder(folder.root.resolve())
    if detach:
        remote = make_launcher(spec.recipe.launcher.kind).remote
        return _leave(spec, folder, facts, attempt, json) if remote else _detach(folder, attempt, json)
    stream = sys.stderr if json else sys.stdout
    result = supervise(spec, folder, facts, attempt, stream)
    if json:
        told = {"run_dir": str(folder.root), "sha256": spec.sha256, **asdict(result)}
        print(jsonlib.dumps(standard(told)))
    return result.exit_code


def supervise(
    spec: RunSpec, folder: RunFolder, facts: ClusterFacts, attempt: int, stream: IO[str]
) -> RunResult:
    """Submit, follow to the end and show the result on `stream`."""
    launcher = make_launcher(spec.recipe.launcher.kind)
    with resumable(folder.root), run_lock.hold(folder), catch_interrupts() as interrupts:
        refuse_living(launcher, folder)
        plan = make_plan(launcher, spec, folder, facts, attempt)
        write_plan(plan, folder)
        print(f"{folder.root}", file=stream, flush=True)
        with make_display(folder, attempt, stream) as display:
            handle = submit(launcher, plan, folder)
            print(launcher.invitation(spec, folder), end="", file=sys.stderr, flush=True)
            result = follow(launcher, handle, folder, spec, display, interrupts)
        show_end(launcher, launcher.current(handle, folder), folder, spec, result, stream)
    return result


def refuse_living(launcher: Launcher, folder: RunFolder) -> None:
    """Raises `SubmissionError` while an earlier attempt lives, or may, whose command may have been killed."""
    handle = certain_handle(folder)
    if handle is not None and launcher.poll(handle, folder) in ("queued", "running"):
        hint = f"end it with `cancel {folder.root}`"
        raise SubmissionError(f"{folder.root}: attempt {handle.attempt} is still running; {hint}")


def make_plan(
    launcher: Launcher, spec: RunSpec, folder: RunFolder, facts: ClusterFacts, attempt: int
) -> LaunchPlan:
    """The launcher's plan, with the layout of a run that moved to other ranks."""
    plan = launcher.plan(spec, folder.root, facts, attempt)
    return plan if spec.sealed is spec else replace(plan, layout=spec.layout)


def write_plan(plan: LaunchPlan, folder: RunFolder) -> None:
    """Keep the plan beside what it ran. Only the user may read it: it carries an environment."""
    write_atomic(folder.plan / "launch.json", to_json(plan), mode=0o600)
    for path, text in plan.files.items():
        write_atomic(folder.plan / path, text, mode=0o600)


def submit(launcher: Launcher, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
    """Start the plan and record the handle; what cannot be recorded is ended."""
    handle = replace(launcher.submit(plan, folder), layout=plan.layout)
    try:
        record(folder, handle)
    except OSError:
        launcher.cancel(handle, folder, 0.0)
        raise
    return handle


def show_end(
    launcher: Launcher,
    handle: RunHandle,
    folder: RunFolder,
    spec: RunSpec,
    result: RunResult,
    stream: IO[str],
) -> None:
    """Draw the picture and say how it ended."""
    picture = draw(folder)
    show_result(folder, spec, result, picture, stream)
    if result.state in ("failed", "preempted"):
        rank, errors = result.first_failed_rank, folder.read_rank_errors(handle.attempt)
        traceback = next((error.traceback for error in errors if error.rank == rank), "")
        show_failure(result, traceback, launcher.logs(handle, folder, rank), sys.stderr)
    elif result.state == "cancelled":
        print(f"galley: {result.message}; continue with `resume {folder.root}`", file=sys.stderr)


def _leave(spec: RunSpec, folder: RunFolder, facts: ClusterFacts, attempt: int, json: bool) -> int:
    """Hand the job to its scheduler."""
    launcher = make_launcher(spec.recipe.launcher.kind)
    with run_lock.hold(folder):
        refuse_living(launcher, folder)
        plan = make_plan(launcher, spec, folder, facts, attempt)
        write_plan(plan, folder)
        handle = submit(launcher, plan, folder)
    state = {"run_dir": str(folder.root), "state": "queued", "attempt": attempt, "job": handle.job}
    print(jsonlib.dumps(state) if json else folder.root)
    return 0


def _detach(folder: RunFolder, attempt: int, json: bool) -> int:
    """Start `launchers.lifecycle.detached` and wait until it has submitted the job."""
    log = folder.logs(attempt) / "supervisor.log"
    source = str(ROOT)
    argv = (sys.executable, "-P", "-m", "launchers.lifecycle.detached", str(folder.root), str(attempt))
    child = proc.start(argv, env={**os.environ, "PYTHONPATH": source}, log=log, dies_with_parent=False)
    end = time.monotonic() + _DETACH_TIMEOUT_S
    while not any(handle.attempt == attempt for handle in folder.read_handles()):
        code = child.exit_code()
        if code is not None and result_of(folder, attempt) is None:
            said = log.read_text(errors="replace").strip()
            raise SubmissionError(f"the supervisor ended with {proc.describe_exit(code)}: {said}")
        if time.monotonic() > end:
            proc.terminate(lambda: [p for p in [child.id.find()] if p is not None], grace_s=5.0)
            raise SubmissionError(f"the supervisor did not submit within {_DETACH_TIMEOUT_S:g} s, see {log}")
        time.sleep(0.02)
    state = {"run_dir": str(folder.root), "state": "running", "attempt": attempt, "log": str(log)}
    print(jsonlib.dumps(state) if json else folder.root)
    return 0
