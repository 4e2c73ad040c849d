"""A run as a Ray job.

Needs a file system that this machine and the nodes share, for the run folder and for the Python
environment. The job outlives the command.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from galley.errors import ConfigError, Problem, SubmissionError
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.schema.types import MAX_PORT
from galley.spec import FINAL_STATES, ClusterFacts, LaunchPlan, RunHandle, RunSpec, State
from galley.strategy.layout import declared_facts
from galley.urls import cleaned, secrets_in
from launchers.base import Diagnosis, Launcher
from launchers.common import torchrun_log
from launchers.common.worker_command import (
    attempt_environment,
    rank_environment,
    torchrun,
    worker_arguments,
    worker_command,
)
from launchers.ray.client import Client
from launchers.ray.driver import NODE_LOST

JOB = "job.json"  # what is posted
NODES = "nodes.json"  # what the driver reads
_ADDRESS = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[^/\s:@\[\]]+)(?::([0-9]+))?")
_STOP_S = 30.0
SIGNALLED = 128  # a shell adds this to the number of the signal that ended a command
_STATES: dict[str, State] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "STOPPED": "cancelled",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
}


class RayLauncher(Launcher):
    """Jobs of the Ray cluster at `launcher.ray.address`.

    Attributes:
        python: the interpreter of the nodes.
    """

    name = "ray"
    poll_s = 1.0
    remote = True

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        self.refuse_waiting(after)
        address = recipe.launcher.ray.address
        found = _ADDRESS.fullmatch(address)
        if found is None or (found[1] is not None and not 0 < int(found[1]) <= MAX_PORT):
            what = "is not the address of a dashboard"
            hint = "http://HOST:PORT, as `ray start --head` prints it"
            if secrets_in(address):
                hint += "; a token goes into the variable RAY_AUTH_TOKEN"
            where = f"launcher.ray.address={cleaned(address, address)}"
            raise ConfigError(Problem(where, what, hint))
        return declared_facts(recipe)

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        if "$" in str(run_dir):
            what = "has a '$' in its path, which Ray would expand in the variables of a job"
            raise ConfigError(Problem(f"run_dir={run_dir}", what, "choose another run_dir"))

        argv = (self.python, "-P", "-m", "launchers.ray.driver", *worker_arguments(run_dir))
        nodes = {
            "count": spec.layout.nodes,
            "bundle": bundle(spec),
            "agent": torchrun(self.python, spec, ()) if spec.layout.world_size > 1 else (),
            "worker": worker_command(self.python, spec, run_dir),
            "grace_s": spec.recipe.launcher.grace_s,
        }
        job = {
            "submission_id": job_id(spec, run_dir, attempt),
            "entrypoint": shlex.join(argv),
            "runtime_env": {"env_vars": {"PYTHONPATH": str(run_dir / "code")}},
        }
        files = {JOB: job, NODES: nodes}
        return LaunchPlan(
            launcher=self.name,
            argv=argv,
            env={**attempt_environment(attempt), **rank_environment(spec, run_dir)},
            forward_env=tuple(spec.recipe.launcher.forward_env),
            files={name: json.dumps(value, indent=2) + "\n" for name, value in files.items()},
            attempt=attempt,
        )

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        """Submit the job.

        An ended job of this name belongs to a run folder that is gone, and is deleted first.
        """
        handle = _handle(plan, folder.read_spec().recipe.launcher.ray.address)
        client = Client(handle.host)
        known = client.get(handle.job)
        if known is not None and _state(known) in FINAL_STATES:
            client.delete(handle.job)
        client.submit(json.loads(plan.files[JOB]))
        return handle

    def recall(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle | None:
        handle = _handle(plan, folder.read_spec().recipe.launcher.ray.address)
        return None if Client(handle.host).get(handle.job) is None else handle

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        """Return the state: `queued` until the placement group has its nodes and the ranks are started."""
        try:
            job = Client(handle.host).get(handle.job)
        except SubmissionError:  # the cluster cannot be reached now: nothing is known
            return "unknown"
        state = _state(job) if job is not None else "unknown"
        waits = state == "running" and not folder.launcher_log(handle.attempt).exists()
        return "queued" if waits else state

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        logs = sorted(folder.logs(handle.attempt).glob("launcher*.log"))
        for log in logs:
            if failures := torchrun_log.read_failures(log):
                return torchrun_log.diagnose(failures, log)
        try:
            job, said = Client(handle.host).get(handle.job), Client(handle.host).logs(handle.job)
        except SubmissionError as error:
            return Diagnosis(f"the cluster does not tell: {error}")
        if job is None:
            return Diagnosis(f"Ray knows the job {handle.job} no more", None, "preempted")
        lines = [str(job.get("message") or "").strip(), *said.strip().splitlines()[-10:]]
        message = "\n".join(["the Ray job ended without a result:", *filter(None, lines)])
        return Diagnosis(message, None, "node") if is_lost(job) else Diagnosis(message)

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        client = Client(handle.host)
        if self.poll(handle, folder) in FINAL_STATES:
            return
        client.stop(handle.job)
        end = time.monotonic() + grace_s + _STOP_S
        while self.poll(handle, folder) in ("queued", "running") and time.monotonic() < end and not hurry():
            time.sleep(0.2)


def _handle(plan: LaunchPlan, address: str) -> RunHandle:
    job = json.loads(plan.files[JOB])["submission_id"]
    return RunHandle(RayLauncher.name, plan.attempt, job, address, time.time())


def _state(job: Mapping[str, Any]) -> State:
    return _STATES.get(str(job["status"]), "unknown")


def is_lost(job: Mapping[str, Any]) -> bool:
    """Return whether the job, or one of its nodes, was ended from outside.

    Another attempt may then succeed.
    """
    supervisor = str(job.get("error_type") or "").startswith("JOB_SUPERVISOR_ACTOR")
    code = int(job.get("driver_exit_code") or 0)
    return supervisor or code == NODE_LOST or code < 0 or code > SIGNALLED


def bundle(spec: RunSpec) -> dict[str, float]:
    """Return what one node of the run requests from Ray."""
    cluster, layout = spec.recipe.cluster, spec.layout
    wanted: dict[str, float] = {
        "CPU": cluster.cpus_per_node or layout.procs_per_node * layout.threads_per_proc,
        **spec.recipe.launcher.ray.resources,
    }
    if layout.device == "cuda":
        wanted["GPU"] = cluster.gpus_per_node or layout.procs_per_node
    if cluster.memory_gib_per_node is not None:
        wanted["memory"] = int(cluster.memory_gib_per_node * 2**30)
    return wanted


def job_id(spec: RunSpec, run_dir: Path, attempt: int) -> str:
    """Return a separate id for each attempt.

    It is the run folder's name and a hash that keeps equal names apart.
    """
    slug = re.sub(r"[^a-zA-Z0-9]+", "-", run_dir.name).strip("-")[:40]
    digest = hashlib.sha256(f"{spec.sha256}\0{run_dir}".encode()).hexdigest()[:8]
    return f"galley-{slug}-{digest}-{attempt}"
