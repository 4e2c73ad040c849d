"""Read the status of a job: tables of its conditions, and what its pods report of a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galley.spec import FailureClass, State
from launchers.base import Diagnosis

Object = Mapping[str, Any]

# Condition -> state; the first row that is true decides. A condition that is in neither table is not
# known: a job that has only such ones is `unknown`.
PYTORCH_JOB: tuple[tuple[str, State], ...] = (
    ("Succeeded", "succeeded"),
    ("Failed", "failed"),
    ("Suspended", "queued"),
    ("Restarting", "running"),
    ("Running", "running"),
    ("Created", "queued"),
)
TRAIN_JOB: tuple[tuple[str, State], ...] = (
    ("Complete", "succeeded"),
    ("Failed", "failed"),
    ("Suspended", "queued"),
)
CONDITIONS = {"PyTorchJob": PYTORCH_JOB, "TrainJob": TRAIN_JOB}

# Reasons of a waiting container that do not go away by waiting.
STUCK = frozenset(
    {
        "CreateContainerConfigError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
    }
)
_CLASSES: dict[str, FailureClass] = {"OOMKilled": "oom", "Evicted": "preempted"}


def job_state(job: Object) -> State:
    """Return the state of a job by the table of its kind."""
    status = job.get("status") or {}
    conditions = status.get("conditions") or []
    true = {condition["type"] for condition in conditions if condition.get("status") == "True"}
    table = CONDITIONS.get(str(job.get("kind")), ())
    for condition, state in table:
        if condition in true:
            return state
    if true - {name for name, _ in table}:
        return "unknown"
    active = sum(entry.get("active", 0) for entry in status.get("jobsStatus") or [])
    return "running" if active else "queued"


def has_failed_pod(job: Object) -> bool:
    """Return whether a pod has failed while the job continues."""
    status = job.get("status") or {}
    parts = [*(status.get("replicaStatuses") or {}).values(), *(status.get("jobsStatus") or [])]
    return any(part.get("failed", 0) for part in parts)


def job_message(job: Object) -> str:
    """Return the operator's message about the current state of the job."""
    true = [c for c in (job.get("status") or {}).get("conditions") or [] if c.get("status") == "True"]
    return f"{true[-1].get('reason', '')}: {true[-1].get('message', '')}".strip(": ") if true else ""


def node_index(pod: Object) -> int | None:
    """Return which node of the run a pod is; None if its labels do not tell."""
    labels = pod["metadata"].get("labels") or {}
    role = labels.get("training.kubeflow.org/replica-type")
    if role == "master":
        return 0
    index = labels.get("training.kubeflow.org/replica-index") or labels.get(
        "batch.kubernetes.io/job-completion-index", ""
    )
    return int(index) if index.isdigit() else None


def order_pods(pods: Sequence[Object]) -> dict[int, Object]:
    """Return node -> its newest pod. Beside a Master, Worker 0 is node 1."""
    master = any(
        (pod["metadata"].get("labels") or {}).get("training.kubeflow.org/replica-type") == "master"
        for pod in pods
    )
    by_node: dict[int, Object] = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
        node = node_index(pod)
        labels = pod["metadata"].get("labels") or {}
        worker = labels.get("training.kubeflow.org/replica-type") == "worker"
        if node is not None:
            by_node[node + (1 if master and worker else 0)] = pod
    return dict(sorted(by_node.items()))


def stuck_reason(pods: Mapping[int, Object]) -> str | None:
    """Return why a pod will never start; None if there is no such pod."""
    for pod in pods.values():
        for container in _containers(pod.get("status") or {}):
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in STUCK:
                name = pod["metadata"]["name"]
                return f"pod {name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return None


def diagnose_pods(pods: Mapping[int, Object], procs_per_node: int) -> Diagnosis | None:
    """Return the first pod that failed, by the time at which its container ended; None if none did."""
    failed = [(ended, node, pod) for node, pod in pods.items() if (ended := _ended(pod)) is not None]
    if not failed:
        return None
    ended, node, pod = min(failed, key=lambda entry: (entry[0].at, entry[1]))
    message = f"pod {pod['metadata']['name']} ended with exit code {ended.exit_code} ({ended.reason})"
    failure: FailureClass = _CLASSES.get(ended.reason, "configuration" if ended.exit_code == 2 else "user")
    return Diagnosis(message, node * procs_per_node, failure)


def _containers(status: Object) -> list[Object]:
    """Return what is known of the containers of a pod, in the order of their start."""
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


@dataclass(frozen=True)
class _Ended:
    """How a pod failed. `at` is the time in Kubernetes' notation, empty if it does not tell."""

    reason: str
    exit_code: int
    at: str = ""


def _ended(pod: Object) -> _Ended | None:
    status = pod.get("status") or {}
    for container in _containers(status):
        state = (container.get("state") or {}).get("terminated") or {}
        if state.get("exitCode"):
            return _Ended(state.get("reason", "Error"), state["exitCode"], state.get("finishedAt", ""))
    return _Ended(status.get("reason", "Failed"), 1) if status.get("phase") == "Failed" else None
