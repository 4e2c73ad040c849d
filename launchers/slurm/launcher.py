"""Slurm: a batch script, in which srun starts one torchrun agent on each node.

Needs a file system that all nodes share, for the run folder and for the Python environment.
The job outlives the command. Slurm may start it again (preemption, a failed node, the time limit):
the run folder stays, and the next attempt continues from the last checkpoint.
"""

from __future__ import annotations

import math
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from galley.errors import ConfigError, Problem, SubmissionError
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import FINAL_STATES, ClusterFacts, LaunchPlan, RunHandle, RunSpec, State
from galley.strategy.layout import declared_facts
from galley.system import proc
from launchers.base import Diagnosis, JobArrays, Launcher
from launchers.common import torchrun_log
from launchers.common.worker_command import rank_environment, torchrun, worker_command
from launchers.slurm import script, states
from launchers.slurm.container import Container
from launchers.slurm.options import further_srun_options, setup_lines
from launchers.slurm.recall import find_job
from launchers.slurm.states import FORGOTTEN, Seen

_TOOL_TIMEOUT_S = 60.0
_FORGOTTEN_JOB = "Invalid job id"  # scancel's message for a job that ended some minutes ago
_CANCEL_POLL_S = 0.5
_CANCEL_S = 60.0  # room for Slurm's KillWait, 30 s by default, and for the epilog
_LIVE = ("queued", "running")


class SlurmLauncher(Launcher):
    """Jobs of the cluster of which this machine is a login node or a member.

    Attributes:
        python: the interpreter of the nodes.
    """

    name = "slurm"
    poll_s = 2.0
    remote = True

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._arrays: dict[tuple[str, ...], tuple[float, dict[int, Seen]]] = {}

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        failed = _failed_nodes(earlier) if earlier is not None else ()
        job = _job_to_wait_for(after) if after is not None else None
        return replace(declared_facts(recipe), avoid=failed, after=job)

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        files = {
            "env.sh": script.env_file(rank_environment(spec, run_dir)),
            "job.sh": self._job_script(spec, run_dir, facts, attempt),
            "node.sh": self._node_script(spec, run_dir),
        }
        return LaunchPlan(
            launcher=self.name,
            argv=("sbatch", "--parsable", str(run_dir / "plan" / "job.sh")),
            env={},
            forward_env=tuple(spec.recipe.launcher.forward_env),
            files=files,
            attempt=attempt,
        )

    def _job_script(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> str:
        slurm, array = spec.recipe.launcher.slurm, script.array
        step = (
            f"--cpus-per-task={script.cpus_per_node(spec)}",
            *(("--export=ALL",) if slurm.export == "none" else ()),  # else srun inherits what sbatch was told
            *Container.of(spec, run_dir).srun_options,
            *further_srun_options(slurm),
        )
        settings = {
            "run_dir": script.quote(str(run_dir)),
            "first_attempt": str(attempt),
            "nodes": str(spec.layout.nodes),
            "requeue": "1" if slurm.requeue else "",
            "spare_feature": script.quote(slurm.spare_constraint or ""),
            "step_options": array(step),
        }
        header = script.directives(spec, run_dir, facts)
        return script.job_script(header, settings, setup_lines(slurm), script.template("job.sh"))

    def _node_script(self, spec: RunSpec, run_dir: Path) -> str:
        container, array = Container.of(spec, run_dir), script.array
        python = container.python or self.python
        agent = torchrun(python, spec, ("--rdzv-backend=c10d",)) if spec.layout.world_size > 1 else ()
        settings = {
            "join_timeout_s": str(spec.recipe.launcher.timeout_s),
            "container": array(container.command),
            "agent": array(agent),
            "worker": array(worker_command(python, spec, run_dir)),
        }
        return script.job_script((), settings, (), script.template("node.sh"))

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        folder.logs(plan.attempt).mkdir(parents=True, exist_ok=True)
        open_to_group(folder)
        return handle_of(plan.attempt, submit_script(plan, os.environ), time.time())

    def recall(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle | None:
        known = {_split(handle)[0] for handle in folder.read_handles()}
        script, text = folder.plan / "job.sh", plan.files["job.sh"]
        job = find_job(script, text, folder.root / "logs", known)
        return None if job is None else handle_of(plan.attempt, job, script.stat().st_mtime)

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        return self._look(handle).meaning.state

    def _look(self, handle: RunHandle) -> Seen:
        """Return what Slurm knows of the job; `FORGOTTEN` if nothing knows it, or answers.

        The controller remembers a job for some minutes after its end; then the accounting is asked.
        """
        job, cluster = _split(handle)
        array, _, task = job.partition("_")
        try:
            if task:
                return self._look_at_array(array, cluster)[int(task)]
            return states.read_scontrol(_show_job(job, cluster))
        except (SubmissionError, KeyError):
            return self._look_into_accounting(job, cluster)

    def _look_at_array(self, job: str, cluster: tuple[str, ...]) -> dict[int, Seen]:
        """Return all tasks by one request, whose answer is used for half of `poll_s`: an array may have
        hundreds.
        """
        asked_at, tasks = self._arrays.get((job, *cluster), (-math.inf, {}))
        if time.monotonic() - asked_at >= self.poll_s / 2:
            tasks = states.read_array(_show_job(job, cluster))
            self._arrays[job, *cluster] = (time.monotonic(), tasks)
        return tasks

    def _look_into_accounting(self, job: str, cluster: tuple[str, ...]) -> Seen:
        columns = ("--allocations", "--parsable2", "--noheader", "--format=State,ExitCode")
        try:
            argv = ("sacct", *cluster, *columns, f"--jobs={job}")
            return states.read_sacct(proc.run(argv, timeout_s=_TOOL_TIMEOUT_S))
        except SubmissionError:  # a cluster without accounting
            return FORGOTTEN

    def current(self, handle: RunHandle, folder: RunFolder) -> RunHandle:
        started = folder.started_attempts()
        return replace(handle, attempt=max([handle.attempt, *started]))

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        seen, log = self._look(handle), folder.launcher_log(handle.attempt)
        if seen.meaning.why:
            reason = f" ({seen.reason})" if seen.reason else ""
            message = f"Slurm ended job {handle.job} as {seen.name}{reason}: {seen.meaning.why}"
            return Diagnosis(message, failure_class=seen.meaning.failure_class)
        failures = torchrun_log.read_failures(log)
        if failures or log.exists() or not seen.name:
            return torchrun_log.diagnose(failures, log)
        reason = seen.reason or f"exit code {seen.exit_code}"
        return Diagnosis(f"Slurm ended job {handle.job} before its ranks started: {seen.name} ({reason})")

    def arrays(self) -> JobArrays:
        from launchers.slurm.array import SlurmArrays

        return SlurmArrays()

    def logs(self, handle: RunHandle, folder: RunFolder, rank: int | None = None) -> list[Path]:
        job, _ = _split(handle)
        batch = folder.batch_log(job)
        return [*super().logs(handle, folder, rank), *([batch] if batch.exists() else [])]

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        job, cluster = _split(handle)
        if self.poll(handle, folder) in FINAL_STATES:
            return
        try:  # even if the state is unknown: Slurm may only not have answered
            proc.run(("scancel", *cluster, job), timeout_s=_TOOL_TIMEOUT_S)
        except SubmissionError as error:
            if _FORGOTTEN_JOB in str(error):
                return
            raise
        end = time.monotonic() + grace_s + _CANCEL_S
        while self.poll(handle, folder) in _LIVE and time.monotonic() < end:
            if hurry():
                proc.run(("scancel", *cluster, "--full", "--signal=KILL", job), timeout_s=_TOOL_TIMEOUT_S)
                return
            time.sleep(_CANCEL_POLL_S)


def handle_of(attempt: int, job: str, submitted_at: float) -> RunHandle:
    """Return the handle. `job` is what `sbatch --parsable` prints."""
    return RunHandle(SlurmLauncher.name, attempt, job, socket.gethostname(), submitted_at)


def submit_script(plan: LaunchPlan, environ: Mapping[str, str]) -> str:
    """Ask Slurm whether it would accept the job, then submit it; return the job's id.

    Raises `SubmissionError` with Slurm's reason.
    """
    sbatch, *arguments = plan.argv
    environment = {**submission_environment(environ), **plan.env}
    try:
        proc.run((sbatch, "--test-only", *arguments), timeout_s=_TOOL_TIMEOUT_S, env=environment)
    except SubmissionError as error:
        unused = sorted(name for name in environ if name.startswith("SBATCH_"))
        hint = (
            f"\n{', '.join(unused)}: not used, set launcher.slurm.* and cluster.* instead" if unused else ""
        )
        raise SubmissionError(f"{error}{hint}") from error
    return proc.run(plan.argv, timeout_s=_TOOL_TIMEOUT_S, env=environment).strip()


def submission_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment without what would change the plan: `SBATCH_*`, and an enclosing job."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("SBATCH_", "SLURM_")) or name == "SLURM_CONF"
    }


def open_to_group(folder: RunFolder) -> None:
    """Let the group write `KILL` and `SAVE` into the folder. The sticky bit protects the files of others."""
    mode = stat.S_IMODE(folder.root.stat().st_mode)
    folder.root.chmod(mode | stat.S_IWGRP | stat.S_ISVTX)


def _show_job(job: str, cluster: tuple[str, ...]) -> str:
    """Return scontrol's text. It omits most of a long list of array tasks, unless SLURM_BITSTR_LEN is 0."""
    argv = ("scontrol", *cluster, "show", "job", "--oneliner", job)
    return proc.run(argv, timeout_s=_TOOL_TIMEOUT_S, env={**os.environ, "SLURM_BITSTR_LEN": "0"})


def _split(handle: RunHandle) -> tuple[str, tuple[str, ...]]:
    """Return the job's id, and the option for its cluster if sbatch named one (`12;alpha`)."""
    job, _, cluster = handle.job.partition(";")
    return job, (f"--clusters={cluster}",) if cluster else ()


def _failed_nodes(folder: RunFolder) -> tuple[str, ...]:
    path = folder.root / "failed_nodes"
    return tuple(sorted(set(path.read_text().split()))) if path.exists() else ()


def _job_to_wait_for(folder: RunFolder) -> str | None:
    """Return the job of the run; None if the run has succeeded already.

    Raises `ConfigError` if it never will.
    """
    from launchers.lifecycle.attempt_store import last_handle
    from launchers.lifecycle.queries import run_state

    state, handle = run_state(folder), last_handle(folder)
    if state == "succeeded":
        return None
    if handle is None or handle.launcher != SlurmLauncher.name or state not in _LIVE:
        what = f"is {state}" + ("" if handle is None else f" under launcher={handle.launcher}")
        hint = "`after` waits for a run that is queued or running under launcher=slurm"
        raise ConfigError(Problem(f"after={folder.root.name}", what, hint))
    return _split(handle)[0]
