"""Kubernetes as a launcher: one job per attempt, one pod per node, one torchrun agent per pod."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from galley.errors import ConfigError, Problem, SubmissionError
from galley.rundir import RunFolder, write_atomic
from galley.schema import K8s, Recipe
from galley.spec import FINAL_STATES, ClusterFacts, LaunchPlan, RunHandle, RunResult, RunSpec, State
from galley.strategy.layout import declared_facts
from launchers.base import Diagnosis, Launcher
from launchers.common import torchrun_log as agents
from launchers.k8s.bundle import code_config_map, size_problems
from launchers.k8s.clients.base import Client, KubeContext
from launchers.k8s.clients.connect import make_client
from launchers.k8s.clients.kubectl import file_flags, place_flags
from launchers.k8s.collect import collect
from launchers.k8s.manifest.job import KINDS, build, kind_of, make_job
from launchers.k8s.manifest.names import code_name
from launchers.k8s.manifest.yaml_text import from_yaml, to_yaml
from launchers.k8s.options import option_problems
from launchers.k8s.states import (
    diagnose_pods,
    has_failed_pod,
    job_message,
    job_state,
    order_pods,
    stuck_reason,
)
from launchers.k8s.validation.blame import name_keys
from launchers.k8s.validation.checks import manifest_problems

MANIFEST = "manifest.yaml"
CODE = "code.json"  # made of the snapshot when the plan is submitted; its hash is in the manifest
_ASK_EVERY_S = 1.0
_DELETION_S = 15.0  # between the end of a pod and its removal
_COLLECT_EVERY_S = 10.0
_SELECTORS = {
    "pytorchjobs.kubeflow.org": "training.kubeflow.org/job-name={name}",
    "trainjobs.trainer.kubeflow.org": "jobset.sigs.k8s.io/jobset-name={name}",
}
Pods = dict[int, Mapping[str, Any]]


@dataclass
class _Seen:
    """What this process knows of a job.

    Attributes:
        nodes: the nodes whose logs are copied while the job lives.
    """

    state: State = "unknown"
    asked_at: float = -_ASK_EVERY_S
    collected_at: float = -_COLLECT_EVERY_S
    nodes: set[int] = field(default_factory=lambda: {0})


_SEEN: dict[RunHandle, _Seen] = {}


class K8sLauncher(Launcher):
    """Jobs of Kubeflow.

    Attributes:
        connect: makes the client of a cluster.
    """

    name = "k8s"
    poll_s = 2.0
    remote = True

    def __init__(self, connect: Callable[[KubeContext], Client] = make_client) -> None:
        self.connect = connect

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        if after is not None:
            what = f"Kubernetes has no queue to wait in for {after.root.name}"
            raise ConfigError(Problem("after", what, "start it when the other run has succeeded"))
        problems = list(size_problems(recipe))
        if problems:
            raise ConfigError(problems)
        declared = declared_facts(recipe)
        saves = [] if earlier is None else [_save_s(path) for path in earlier.checkpoints.glob("step-*")]
        return replace(declared, save_s=max(saves, default=0.0))

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        problems = list(option_problems(spec))
        if problems:
            raise ConfigError(problems)

        job = make_job(spec, run_dir, facts, attempt)
        objects = build(job)
        problems = name_keys(manifest_problems(objects), job.options)
        if problems:
            raise ConfigError(problems)

        options = job.options
        files = [run_dir / "plan" / name for name in _file_names(options)]
        return LaunchPlan(
            launcher=self.name,
            argv=(
                *("kubectl", "create", *file_flags(files)),
                *place_flags(options.context, options.namespace),
            ),
            env={},
            forward_env=tuple(spec.recipe.launcher.forward_env),
            files={MANIFEST: to_yaml(objects, f"{spec.recipe.recipe}, run {spec.sha256[:12]}")},
            attempt=attempt,
        )

    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        spec = folder.read_spec()
        options = spec.recipe.launcher.k8s
        objects = from_yaml(plan.files[MANIFEST])
        if CODE in _file_names(options):
            metadata = {**objects[0]["metadata"], "name": code_name(objects[0]["metadata"]["name"])}
            code = code_config_map(folder, metadata)
            write_atomic(folder.plan / CODE, json.dumps(code))  # YAML, too, but written in no time
        place = self.connect(KubeContext(options.context or "", options.namespace or "")).current()
        client = self.connect(place)
        print(f"kubernetes: {place}", file=sys.stderr, flush=True)
        resource, name = KINDS[kind_of(spec)], objects[-1]["metadata"]["name"]
        _create(client, plan, _files(folder, options), resource, name)
        return _handle(plan, place, resource, name)

    def recall(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle | None:
        spec = folder.read_spec()
        options = spec.recipe.launcher.k8s
        place = self.connect(KubeContext(options.context or "", options.namespace or "")).current()
        resource, name = KINDS[kind_of(spec)], from_yaml(plan.files[MANIFEST])[-1]["metadata"]["name"]
        return (
            None if self.connect(place).get(resource, name) is None else _handle(plan, place, resource, name)
        )

    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        """Return the state. Copies logs and results on the way: all of them once the job has ended."""
        seen = _SEEN.setdefault(handle, _Seen())
        now = time.monotonic()
        if seen.state in FINAL_STATES or now - seen.asked_at < _ASK_EVERY_S:
            return seen.state

        client = self._client(handle)
        try:
            job = client.get(*_resource(handle))
            state: State = _gone(folder, handle) if job is None else job_state(job)
            if job is None:
                return state
            if state in FINAL_STATES:
                self._bring(client, handle, folder, self._pods(client, handle))
            elif state == "running" and now - seen.collected_at >= _COLLECT_EVERY_S:
                pods = self._pods(client, handle)
                self._bring(client, handle, folder, {n: pod for n, pod in pods.items() if n in seen.nodes})
                seen.collected_at = now
        except SubmissionError:  # the cluster cannot be reached now: nothing is known
            state = "unknown"

        if state == "succeeded":
            _keep_success(folder, handle)
        seen.state, seen.asked_at = state, now
        return state

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        client = self._client(handle)
        job = client.get(*_resource(handle))
        failed = job is not None and has_failed_pod(job)
        return failed or stuck_reason(self._pods(client, handle)) is not None

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        for log in sorted(folder.logs(handle.attempt).glob("agent-*.log")):
            failures = agents.read_failures(log)
            if failures:
                return agents.diagnose(failures, log)
        client = self._client(handle)
        try:
            job, pods = client.get(*_resource(handle)), self._pods(client, handle)
        except SubmissionError as error:
            return Diagnosis(f"the cluster does not tell: {error}")
        if job is None:
            return Diagnosis(f"the job {handle.job} is gone; somebody has deleted it", None, "preempted")
        of_pods = diagnose_pods(pods, folder.read_attempt_spec(handle.attempt).layout.procs_per_node)
        return of_pods or Diagnosis(stuck_reason(pods) or job_message(job) or f"{handle.job} has failed")

    def logs(self, handle: RunHandle, folder: RunFolder, rank: int | None = None) -> list[Path]:
        """Return the logs: new text comes from the pods; if they are gone, earlier copies remain."""
        client = self._client(handle)
        try:
            pods = self._pods(client, handle)
            if rank is not None:
                node = rank // folder.read_attempt_spec(handle.attempt).layout.procs_per_node
                pods = {number: pod for number, pod in pods.items() if number == node}
            self._bring(client, handle, folder, pods)
            seen = _SEEN.setdefault(handle, _Seen())
            seen.nodes |= set(pods)
            seen.collected_at = -_COLLECT_EVERY_S
        except SubmissionError as error:
            print(f"galley: {error}", file=sys.stderr)

        rank_logs = super().logs(handle, folder, rank)
        if rank is not None and not rank_logs and self.poll(handle, folder) in ("queued", "running"):
            return []  # the rank has not begun
        kept = folder.logs(handle.attempt)
        return [*rank_logs, *sorted(kept.glob("agent-*.log")), *sorted(kept.glob("pod-*.log"))]

    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        """Delete the job and its objects, and wait for its pods. Their own grace period decides."""
        client = self._client(handle)
        job = client.get(*_resource(handle))
        if job is None or job_state(job) in FINAL_STATES:
            return
        self._bring(client, handle, folder, self._pods(client, handle))
        manifest = folder.plan / MANIFEST
        write_atomic(_deleted_mark(folder, handle), "")
        client.delete(_files(folder, folder.read_spec().recipe.launcher.k8s))
        end = time.monotonic() + max(grace_s, _grace_s(manifest)) + _DELETION_S
        while self._pods(client, handle) and time.monotonic() < end and not hurry():
            time.sleep(0.5)

    def _client(self, handle: RunHandle) -> Client:
        return self.connect(KubeContext(handle.host, handle.job.split("/")[0]))

    def _pods(self, client: Client, handle: RunHandle) -> Pods:
        resource, name = _resource(handle)
        return order_pods(client.pods(_SELECTORS[resource].format(name=name)))

    def _bring(self, client: Client, handle: RunHandle, folder: RunFolder, pods: Pods) -> None:
        """Copy the logs of these pods, and the files in them, into the run folder on this machine."""
        shared = folder.read_spec().recipe.launcher.k8s.transport == "claim"
        collect(client, pods, folder, handle.attempt, shared)


def _handle(plan: LaunchPlan, place: KubeContext, resource: str, name: str) -> RunHandle:
    job = f"{place.namespace}/{resource}/{name}"
    return RunHandle(K8sLauncher.name, plan.attempt, job, place.context, time.time())


def _create(client: Client, plan: LaunchPlan, files: list[Path], resource: str, name: str) -> None:
    """Create all objects, or none: kubectl continues after a refused object."""
    if client.get(resource, name) is not None:
        hint = f"delete it with `kubectl delete {resource} {name}`, or choose another run_dir"
        raise SubmissionError(f'{resource} "{name}" already exists ({client.place}); {hint}')
    try:
        client.create(plan.argv, files)
    except SubmissionError:
        with suppress(SubmissionError):  # report the reason of the refusal, not that of the deletion
            client.delete(files)
        raise


def _deleted_mark(folder: RunFolder, handle: RunHandle) -> Path:
    """Return the file that records, for every process, that Galley itself deleted the job."""
    return folder.logs(handle.attempt) / "deleted"


def _gone(folder: RunFolder, handle: RunHandle) -> State:
    return "cancelled" if _deleted_mark(folder, handle).exists() else "unknown"


def _file_names(options: K8s) -> list[str]:
    """Return the files of a plan, in the order in which their objects are created: the job is last."""
    return [CODE, MANIFEST] if options.transport == "configmap" else [MANIFEST]


def _files(folder: RunFolder, options: K8s) -> list[Path]:
    return [folder.plan / name for name in _file_names(options)]


def _resource(handle: RunHandle) -> tuple[str, str]:
    """Split `NAMESPACE/RESOURCE/NAME` into resource and name."""
    _, resource, name = handle.job.split("/")
    return resource, name


def _grace_s(manifest: Path) -> int:
    """Return the grace period of the pods in seconds; 0 if the plan is gone."""
    text = manifest.read_text(encoding="utf-8") if manifest.exists() else ""
    return max((int(found) for found in re.findall(r"terminationGracePeriodSeconds: (\d+)", text)), default=0)


def _save_s(checkpoint: Path) -> float:
    """Return the seconds that a checkpoint took, since its manifest is written last; 0 if incomplete."""
    files = [path.stat().st_mtime for path in checkpoint.rglob("*") if path.is_file()]
    return max(files) - min(files) if (checkpoint / "manifest.json").exists() else 0.0


def _keep_success(folder: RunFolder, handle: RunHandle) -> None:
    """Write a result for a job that succeeded, if its log could not be copied completely."""
    result = folder.read_result()
    if result is None or result.attempts != handle.attempt:
        message = "the job succeeded; its result.json is in the run folder on the claim only"
        size = folder.read_attempt_spec(handle.attempt).layout.world_size
        folder.write_result(RunResult("succeeded", 0, message, attempts=handle.attempt, world_size=size))
