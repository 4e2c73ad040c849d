"""Many runs as one job array, as a sweep wants them: one submission, at most so many at a time.

Every run keeps a handle of its own (`JOB_INDEX`) and is polled, cancelled and restarted alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder, write_atomic
from galley.spec import ClusterFacts, LaunchPlan, RunHandle, RunSpec, to_json
from launchers import slurm_script
from launchers.run import write_plan
from launchers.slurm import SlurmLauncher, open_to_group, submit_script

_OF_THE_RUN = ("job-name", "output")


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
    """Plan (spec, run folder, attempt) each, all on the same kind of nodes; at most `parallel` at a time.

    Pure. Raises `ConfigError` where the runs do not ask Slurm for the same.
    """
    requests = [request_of(spec, run_dir, facts) for spec, run_dir, _ in runs]
    for request, (_, run_dir, _) in zip(requests, runs, strict=True):
        different = {name for name in {*request, *requests[0]} if request.get(name) != requests[0].get(name)}
        if different:
            what = f"asks Slurm for other {', '.join(sorted(different))}"
            hint = "submit the runs that ask for the same as one array"
            raise ConfigError(Problem(str(run_dir), f"{what} than {runs[0][1]}", hint))
    throttle = "" if parallel is None else f"%{parallel}"
    header = {
        "job-name": slurm_script.job_name(folder),
        "output": slurm_script.log_pattern(folder, "%A_%a"),
        **requests[0],
        "array": f"0-{len(runs) - 1}{throttle}",
    }
    settings = {"list": slurm_script.quote(str(folder / "runs"))}
    files = {
        "array.sh": slurm_script.job_script(header.items(), settings, (), slurm_script.template("array.sh")),
        "runs": "".join(f"{run_dir}\n" for _, run_dir, _ in runs),
    }
    argv = ("sbatch", "--parsable", str(folder / "array.sh"))
    array = LaunchPlan(launcher=launcher.name, argv=argv, env={}, files=files)
    return ArrayPlan(array, tuple(launcher.plan(spec, root, facts, attempt) for spec, root, attempt in runs))


def request_of(spec: RunSpec, run_dir: Path, facts: ClusterFacts) -> dict[str, str | int | None]:
    """What a run asks Slurm for, by the options of sbatch; all runs of an array ask for the same."""
    asked = slurm_script.directives(spec, run_dir, facts)
    return {name: value for name, value in asked if name not in _OF_THE_RUN}


def submit_array(plan: ArrayPlan, folder: Path, runs: Sequence[RunFolder]) -> list[RunHandle]:
    """Write all plans down, submit the array, and record a handle in every run's folder.

    Raises `SubmissionError` with Slurm's reason; nothing is running then.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "launch.json", to_json(plan.array), mode=0o600)
    for path, text in plan.array.files.items():
        write_atomic(folder / path, text, mode=0o600)
    for run, run_plan in zip(runs, plan.runs, strict=True):
        write_plan(run_plan, run)
        open_to_group(run)
    job, separator, cluster = submit_script(plan.array, os.environ).partition(";")
    handles = []
    for index, (run, run_plan) in enumerate(zip(runs, plan.runs, strict=True)):
        handle = RunHandle(
            launcher=plan.array.launcher,
            attempt=run_plan.attempt,
            job=f"{job}_{index}{separator}{cluster}",
            host=socket.gethostname(),
            started_at=time.time(),
        )
        run.write_handles([*run.read_handles(), handle])
        handles.append(handle)
    return handles
