"""Many runs as one job array, as a sweep needs them: one submission, a limited number at a time.

Every run keeps its own handle (`JOB_INDEX`) and is polled, cancelled and restarted alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder, write_atomic
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunSpec, from_json, to_json
from launchers.base import Job, JobArrays, Prepared
from launchers.lifecycle.attempt_store import record
from launchers.lifecycle.launch import write_plan
from launchers.slurm import script
from launchers.slurm.launcher import SlurmLauncher, handle_of, open_to_group, submit_script
from launchers.slurm.recall import find_job

_OF_THE_RUN = ("job-name", "output")


class SlurmArrays(JobArrays):
    """Job arrays of Slurm."""

    most = 1000  # Slurm's own default (MaxArraySize)

    def request(self, prepared: Prepared) -> dict[str, str | int | None]:
        if prepared.facts is None:
            raise ValueError("an array is submitted by the process that has planned its runs")
        return request_of(prepared.spec, prepared.folder.root, prepared.facts)

    def submit(self, runs: Sequence[Prepared], folder: Path, parallel: int) -> list[Job]:
        array = _array_plan(self.request(runs[0]), [run.folder.root for run in runs], folder, parallel)
        plan = ArrayPlan(array, tuple(run.plan for run in runs))
        handles = submit_array(plan, folder, [run.folder for run in runs])
        return [
            run.launcher.find_job(handle, run.folder, run.spec)
            for run, handle in zip(runs, handles, strict=True)
        ]

    def recall(self, folder: Path) -> None:
        recall_array(folder)


@dataclass(frozen=True)
class ArrayPlan:
    """A submission of several runs.

    Attributes:
        array: its files are relative to the folder of the array.
        runs: plans of the runs, by the index of their task.
    """

    array: LaunchPlan
    runs: tuple[LaunchPlan, ...]


def plan_array(
    launcher: SlurmLauncher,
    runs: Sequence[tuple[RunSpec, Path, int]],
    folder: Path,
    facts: ClusterFacts,
    parallel: int | None = None,
) -> ArrayPlan:
    """Plan (spec, run folder, attempt) for each run, all on the same kind of nodes; at most `parallel` at a
    time.

    Pure. Raises `ConfigError` if the runs do not request the same from Slurm.
    """
    requests = [request_of(spec, run_dir, facts) for spec, run_dir, _ in runs]
    for request, (_, run_dir, _) in zip(requests, runs, strict=True):
        different = {name for name in {*request, *requests[0]} if request.get(name) != requests[0].get(name)}
        if different:
            what = f"asks Slurm for other {', '.join(sorted(different))}"
            hint = "submit the runs that ask for the same as one array"
            raise ConfigError(Problem(str(run_dir), f"{what} than {runs[0][1]}", hint))
    array = _array_plan(requests[0], [run_dir for _, run_dir, _ in runs], folder, parallel)
    return ArrayPlan(array, tuple(launcher.plan(spec, root, facts, attempt) for spec, root, attempt in runs))


def _array_plan(
    request: dict[str, str | int | None], run_dirs: Sequence[Path], folder: Path, parallel: int | None
) -> LaunchPlan:
    throttle = "" if parallel is None else f"%{parallel}"
    header = {
        "job-name": script.job_name(folder),
        "output": script.log_pattern(folder, "%A_%a"),
        **request,
        "array": f"0-{len(run_dirs) - 1}{throttle}",
    }
    settings = {"list": script.quote(str(folder / "runs"))}
    files = {
        "array.sh": script.job_script(header.items(), settings, (), script.template("array.sh")),
        "runs": "".join(f"{run_dir}\n" for run_dir in run_dirs),
    }
    argv = ("sbatch", "--parsable", str(folder / "array.sh"))
    return LaunchPlan(launcher=SlurmLauncher.name, argv=argv, env={}, files=files)


def request_of(spec: RunSpec, run_dir: Path, facts: ClusterFacts) -> dict[str, str | int | None]:
    """Return what a run requests from Slurm, by the options of sbatch.

    All runs of an array request the same.
    """
    asked = script.directives(spec, run_dir, facts)
    return {name: value for name, value in asked if name not in _OF_THE_RUN}


def submit_array(plan: ArrayPlan, folder: Path, runs: Sequence[RunFolder]) -> list[RunHandle]:
    """Write all plans, submit the array, and record a handle in every run's folder.

    Raises `SubmissionError` with Slurm's reason; nothing is running then.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "launch.json", to_json(plan.array), mode=0o600)
    for path, text in plan.array.files.items():
        write_atomic(folder / path, text, mode=0o600)
    for run, run_plan in zip(runs, plan.runs, strict=True):
        write_plan(run_plan, run)
        open_to_group(run)
    job = submit_script(plan.array, os.environ)
    return [
        _record(run, run_plan.attempt, job, index)
        for index, (run, run_plan) in enumerate(zip(runs, plan.runs, strict=True))
    ]


def recall_array(folder: Path) -> None:
    """Record the handles of an array whose submitter was killed before it had recorded all of them.

    Raises `SubmissionError` if Slurm does not tell whether it has the array.
    """
    script = folder / "array.sh"
    runs = [RunFolder(Path(line)) for line in (folder / "runs").read_text().splitlines()]
    if not all((run.plan / "launch.json").exists() for run in runs):
        return  # all plans are written before the submission: the array was not submitted
    attempts = [from_json(LaunchPlan, (run.plan / "launch.json").read_bytes()).attempt for run in runs]
    lost = [
        index
        for index, (run, attempt) in enumerate(zip(runs, attempts, strict=True))
        if all(handle.attempt < attempt for handle in run.read_handles())
    ]
    job = find_job(script, script.read_text(), folder / "logs", known=()) if lost else None
    if job is not None:
        for index in lost:
            _record(runs[index], attempts[index], job, index)


def _record(run: RunFolder, attempt: int, job: str, index: int) -> RunHandle:
    """Record the handle of one task. `job` is the array as `sbatch --parsable` prints it."""
    array, separator, cluster = job.partition(";")
    task = f"{array}_{index}{separator}{cluster}"
    handle = handle_of(attempt, task, time.time())
    record(run, handle)
    return handle
