"""Handles of a run's attempts: recorded when one is submitted, and found again where its submitter was
killed between the submission and the record.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from galley.errors import SubmissionError
from galley.rundir import RunFolder
from galley.spec import LaunchPlan, RunHandle, from_json
from launchers import make_launcher
from launchers.base import Job


def record(folder: RunFolder, handle: RunHandle) -> None:
    """Keep the handle of an attempt, once: another process may have found it by `last_handle`."""
    others = [known for known in folder.read_handles() if known.attempt != handle.attempt]
    folder.write_handles([*others, handle])


def last_job(folder: RunFolder) -> Job | None:
    """The latest attempt, a scheduler's restarts included; None before the first submission."""
    with suppress(SubmissionError):  # a scheduler that does not answer: what is known without it
        _recall(folder)
    return _latest(folder)


def last_handle(folder: RunFolder) -> RunHandle | None:
    """The identity of `last_job`."""
    job = last_job(folder)
    return None if job is None else job.handle


def certain_job(folder: RunFolder) -> Job | None:
    """As `last_job`, for whoever is about to submit: raises `SubmissionError` where it cannot be told
    whether there is a job that nobody has recorded, besides which another would be a second."""
    _recall(folder)
    return _latest(folder)


def _latest(folder: RunFolder) -> Job | None:
    handles = folder.read_handles()
    return make_launcher(handles[-1].launcher).find_job(handles[-1], folder).current() if handles else None


def _recall(folder: RunFolder) -> None:
    """Record the job that a scheduler took from a process that was killed before it could say so."""
    file, handles = folder.plan / "launch.json", folder.read_handles()
    if not file.exists():
        return
    plan = from_json(LaunchPlan, file.read_bytes())
    if handles and plan.attempt <= handles[-1].attempt:
        return
    lost = make_launcher(plan.launcher).recall(plan, folder)
    if lost is not None:
        record(folder, replace(lost, layout=plan.layout))
