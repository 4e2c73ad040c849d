"""Launching what was prepared: write the plan down, submit, follow, show. Here, or in a detached process."""

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
from galley.spec import LaunchPlan, RunResult, to_json
from galley.system import proc
from galley.system.os_errors import resumable
from launchers.base import Job, Prepared
from launchers.lifecycle import run_lock
from launchers.lifecycle.attempt_store import certain_job, record
from launchers.lifecycle.result import result_of
from launchers.lifecycle.supervise import catch_interrupts, follow

_DETACH_TIMEOUT_S = 60.0


def launch(prepared: Prepared, *, detach: bool = False, json: bool = False) -> int:
    """Run what was prepared; returns the exit code of the command.

    The folder holds run.json and code/ already. With `detach` it returns once the job is
    submitted; unless a scheduler owns it, a process in a session of its own follows it.

    Raises:
        SubmissionError: the launcher refused, or another command is running this folder.
    """
    if detach:
        return _leave(prepared, json) if prepared.launcher.remote else _detach(prepared, json)
    result = supervise(prepared, sys.stderr if json else sys.stdout)
    if json:
        about = {"run_dir": str(prepared.folder.root), "sha256": prepared.spec.sha256, **asdict(result)}
        print(jsonlib.dumps(standard(about)))
    return result.exit_code


def supervise(prepared: Prepared, stream: IO[str]) -> RunResult:
    """Submit, follow to the end and show the result on `stream`."""
    folder = prepared.folder
    with resumable(folder.root), run_lock.hold(folder), catch_interrupts() as interrupts:
        refuse_living(folder)
        write_plan(prepared.plan, folder)
        print(f"{folder.root}", file=stream, flush=True)
        with make_display(folder, prepared.plan.attempt, stream) as display:
            job = submit(prepared)
            invitation = prepared.launcher.invitation(prepared.spec, folder)
            print(invitation, end="", file=sys.stderr, flush=True)
            result = follow(job, display, interrupts)
        show_end(job.current(), result, stream)
    return result


def refuse_living(folder: RunFolder) -> None:
    """Raises `SubmissionError` while an earlier attempt lives, or may, whose command may have been killed."""
    job = certain_job(folder)
    if job is not None and job.state() in ("queued", "running"):
        hint = f"end it with `cancel {folder.root}`"
        raise SubmissionError(f"{folder.root}: attempt {job.attempt} is still running; {hint}")


def write_plan(plan: LaunchPlan, folder: RunFolder) -> None:
    """Keep the plan beside what it ran. Only the user may read it: it carries an environment."""
    write_atomic(folder.plan / "launch.json", to_json(plan), mode=0o600)
    for path, text in plan.files.items():
        write_atomic(folder.plan / path, text, mode=0o600)


def submit(prepared: Prepared) -> Job:
    """Start the plan and record the handle; what cannot be recorded is ended."""
    launcher, folder, plan = prepared.launcher, prepared.folder, prepared.plan
    handle = replace(launcher.submit(plan, folder), layout=plan.layout)
    job = launcher.find_job(handle, folder, prepared.spec)
    try:
        record(folder, handle)
    except OSError:
        job.cancel(0.0)
        raise
    return job


def show_end(job: Job, result: RunResult, stream: IO[str]) -> None:
    """Draw the picture and say how it ended."""
    folder = job.folder
    picture = draw(folder)
    show_result(folder, job.spec, result, picture, stream)
    if result.state in ("failed", "preempted"):
        rank, errors = result.first_failed_rank, folder.read_rank_errors(job.attempt)
        traceback = next((error.traceback for error in errors if error.rank == rank), "")
        show_failure(result, traceback, job.logs(rank), sys.stderr)
    elif result.state == "cancelled":
        print(f"galley: {result.message}; continue with `resume {folder.root}`", file=sys.stderr)


def _leave(prepared: Prepared, json: bool) -> int:
    """Hand the job to its scheduler."""
    folder = prepared.folder
    with run_lock.hold(folder):
        refuse_living(folder)
        write_plan(prepared.plan, folder)
        handle = submit(prepared).handle
    state = {"run_dir": str(folder.root), "state": "queued", "attempt": handle.attempt, "job": handle.job}
    print(jsonlib.dumps(state) if json else folder.root)
    return 0


def _detach(prepared: Prepared, json: bool) -> int:
    """Write the plan, start `launchers.lifecycle.detached`, and wait until it has submitted the job."""
    folder, attempt = prepared.folder, prepared.plan.attempt
    with run_lock.hold(folder):  # a living run keeps its own plan
        refuse_living(folder)
        write_plan(prepared.plan, folder)
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
