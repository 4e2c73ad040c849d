from __future__ import annotations

from typing import Any

import pytest

from galley.spec import State
from launchers.k8s.collect import training_container
from launchers.k8s.states import diagnose_pods, has_failed_pod, job_state, order_pods, stuck_reason


def job(kind: str, *conditions: str, **status: Any) -> dict[str, Any]:
    """`X` is a condition that is true, `!X` one that is false."""
    listed = [
        {"type": name.removeprefix("!"), "status": "False" if name.startswith("!") else "True"}
        for name in conditions
    ]
    return {"kind": kind, "status": {"conditions": listed, **status}}


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"kind": "PyTorchJob"}, "queued"),
        (job("PyTorchJob"), "queued"),
        (job("PyTorchJob", "Created"), "queued"),
        (job("PyTorchJob", "Created", "Running"), "running"),
        (job("PyTorchJob", "Created", "Running", "Suspended"), "queued"),
        (job("PyTorchJob", "Created", "!Running", "Restarting"), "running"),
        (job("PyTorchJob", "Created", "!Running", "Succeeded"), "succeeded"),
        (job("PyTorchJob", "Created", "!Running", "Failed"), "failed"),
        (job("PyTorchJob", "Exploded"), "unknown"),
        ({"kind": "TrainJob"}, "queued"),
        (job("TrainJob", jobsStatus=[{"name": "node", "active": 1}]), "running"),
        (job("TrainJob", jobsStatus=[{"name": "node", "active": 0}]), "queued"),
        (job("TrainJob", "Suspended"), "queued"),
        (job("TrainJob", "!Suspended", jobsStatus=[{"name": "node", "active": 1}]), "running"),
        (job("TrainJob", "Complete"), "succeeded"),
        (job("TrainJob", "Failed"), "failed"),
        (job("TrainJob", "Running"), "unknown"),
        (job("Job", "Complete"), "unknown"),
    ],
)
def test_the_state_of_a_job(body: dict[str, Any], state: State) -> None:
    assert job_state(body) == state


def test_a_failed_pod_of_a_living_job_is_seen() -> None:
    assert has_failed_pod(
        job("PyTorchJob", "Running", replicaStatuses={"Worker": {"active": 1, "failed": 1}})
    )
    assert has_failed_pod(job("TrainJob", jobsStatus=[{"name": "node", "failed": 1}]))
    assert not has_failed_pod(job("PyTorchJob", "Running", replicaStatuses={"Worker": {"active": 2}}))


def pod(name: str, created: str = "1", status: Any = None, **labels: str) -> dict[str, Any]:
    named = {
        "role": "training.kubeflow.org/replica-type",
        "index": "training.kubeflow.org/replica-index",
        "completion": "batch.kubernetes.io/job-completion-index",
    }
    found = {named[key]: value for key, value in labels.items()}
    return {
        "metadata": {"name": name, "creationTimestamp": created, "labels": found},
        "status": status or {},
    }


def names(pods: Any) -> dict[int, str]:
    return {node: body["metadata"]["name"] for node, body in pods.items()}


def test_pods_are_nodes() -> None:
    worker, master = pod("w0", role="worker", index="0"), pod("m", role="master", index="0")
    assert names(order_pods([worker, master])) == {0: "m", 1: "w0"}
    assert names(order_pods([worker])) == {0: "w0"}
    restarted = [
        pod("new", "2", completion="1"),
        pod("old", "1", completion="1"),
        pod("zero", completion="0"),
    ]
    assert names(order_pods(restarted)) == {0: "zero", 1: "new"}
    assert order_pods([pod("stranger")]) == {}


def container(**state: Any) -> dict[str, Any]:
    return {"phase": "Running", "containerStatuses": [{"name": "pytorch", "state": state}]}


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    waiting = container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    assert stuck_reason({0: pod("m", status=waiting)}) == "pod m: ImagePullBackOff: no such image"
    assert stuck_reason({0: pod("m", status=container(waiting={"reason": "ContainerCreating"}))}) is None


def test_an_init_container_that_fails_or_has_no_image_is_seen() -> None:
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    status = {"initContainerStatuses": [{"name": "fetch", "state": {"waiting": waiting}}]}
    assert stuck_reason({0: pod("m", status=status)}) == "pod m: ErrImagePull: no such image"
    ended = {"exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:00:01Z"}
    status = {"initContainerStatuses": [{"name": "fetch", "state": {"terminated": ended}}]}
    found = diagnose_pods({0: pod("m", status={"phase": "Failed", **status})}, procs_per_node=1)
    assert found is not None
    assert found.message == "pod m ended with exit code 3 (Error)"


def test_the_log_is_that_of_the_container_that_trains() -> None:
    names = ["istio-proxy", "node", "other"]
    body = {"spec": {"containers": [{"name": name} for name in names]}}
    assert training_container(body) == "node"
    assert training_container({"spec": {"containers": [{"name": "pytorch"}]}}) == "pytorch"


def test_the_first_pod_that_failed_is_the_cause() -> None:
    first = container(
        terminated={"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:01Z"}
    )
    later = container(terminated={"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:02Z"})
    found = diagnose_pods({0: pod("m", status=later), 1: pod("w0", status=first)}, procs_per_node=4)
    assert found is not None
    assert (found.rank, found.failure_class) == (4, "oom")
    assert "pod w0 ended with exit code 137 (OOMKilled)" in found.message
    evicted = pod("m", status={"phase": "Failed", "reason": "Evicted"})
    assert getattr(diagnose_pods({0: evicted}, 1), "failure_class", None) == "preempted"
    assert diagnose_pods({0: pod("m", status=container(terminated={"exitCode": 0}))}, 1) is None
