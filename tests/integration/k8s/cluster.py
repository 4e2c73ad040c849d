"""The operators and the kubelet of the emulator: a job becomes pods, a pod becomes a local process.

Environments, names and labels of pods are those that Kubeflow's operators give; `$(NAME)` in
arguments and values is replaced as Kubernetes does. Folders of the pods are folders of a test.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.integration.k8s.api_objects import Key, Object
from tests.integration.k8s.api_server import ApiServer

TRUE = "True"


def expand(text: str, values: dict[str, str]) -> str:
    """`$(NAME)` is the value of a known variable; `$$` is `$`; everything else stays."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


@dataclass
class Pod:
    """One pod of a job.

    Attributes:
        labels: those of the operator.
        set_by_operator: variables behind those of the manifest.
        is_lost: its node is gone, and no other has room for it.
    """

    name: str
    labels: dict[str, str]
    spec: Object
    set_by_operator: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    is_lost: bool = False


@dataclass
class Cluster:
    """Runs the jobs of one namespace.

    Attributes:
        folder: where logs and mounted ConfigMaps are kept.
        claim: the folder behind the PersistentVolumeClaim.
        start: false leaves pods pending, as when no node has room.
        secret: the keys and values of the only Secret.
    """

    server: ApiServer
    folder: Path
    claim: Path
    port: int
    start: bool = True
    secret: dict[str, str] = field(default_factory=dict)
    jobs: dict[Key, list[Pod]] = field(default_factory=dict)
    _closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.server.store.listeners.append(self._on_change)

    def close(self) -> None:
        self._closed.set()
        for pods in list(self.jobs.values()):
            for pod in pods:
                for process in tree(pod.process.pid) if pod.process is not None else ():
                    with suppress(psutil.NoSuchProcess):
                        process.kill()

    def _on_change(self, event: str, key: Key, body: Object) -> None:
        if key[0] not in ("pytorchjobs", "trainjobs"):
            return
        if event == "ADDED":
            threading.Thread(target=self._run, args=(key, body), daemon=True).start()
        elif event == "DELETED":
            threading.Thread(target=self._delete, args=(key,), daemon=True).start()

    def _run(self, key: Key, job: Object) -> None:
        """An operator's work on one job, from its creation to the end of its pods."""
        pods = pytorch_pods(job, self.port) if key[0] == "pytorchjobs" else self._train_pods(job)
        self.jobs[key] = pods
        for pod in pods:
            self._put_pod(key, pod, {"phase": "Pending"})
        if key[0] == "pytorchjobs":
            self._condition(key, "Created", "PyTorchJobCreated")
        if not self.start or not self._sources_are_there(key, pods):
            return
        for pod in pods:
            self._start(key, pod)
        self._running(key, len(pods))
        while not self._closed.is_set() and key in self.server.store.objects:
            self._drop_lost(key, pods)
            codes = [pod.process.poll() for pod in pods if pod.process is not None]
            for pod, code in zip(pods, codes, strict=True):
                if code is not None:
                    self._put_pod(key, pod, ended(pod, code))
            if any(codes):
                self._fail(key, pods)
                return
            if all(code == 0 for code in codes):
                self._condition(
                    key, "Succeeded" if key[0] == "pytorchjobs" else "Complete", "AllPodsCompleted"
                )
                return
            time.sleep(0.05)

    def _drop_lost(self, key: Key, pods: list[Pod]) -> None:
        for pod in [pod for pod in pods if pod.is_lost]:
            self._end(pod)
            self._remove_pod(key, pod)
            pods.remove(pod)

    def _sources_are_there(self, key: Key, pods: list[Pod]) -> bool:
        """A pod waits for the ConfigMaps that it mounts."""
        names = [source["configMap"]["name"] for source in projected(pods[0].spec)]
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if all(("configmaps", key[1], name) in self.server.store.objects for name in names):
                return True
            time.sleep(0.02)
        return False

    def _running(self, key: Key, count: int) -> None:
        if key[0] == "pytorchjobs":
            self._condition(key, "Running", "PyTorchJobRunning")
            return
        entry = {"name": "node", "active": 1, "ready": 1, "succeeded": 0, "failed": 0, "suspended": 0}
        self.server.store.update(key, lambda job: job.setdefault("status", {}).update(jobsStatus=[entry]))

    def _fail(self, key: Key, pods: list[Pod]) -> None:
        """The first failure ends the job; pods that still run are removed, the others kept."""
        for pod in pods:
            if pod.process is not None and pod.process.poll() is None:
                self._end(pod)
                self._remove_pod(key, pod)
        self._condition(key, "Failed", "PyTorchJobFailed" if key[0] == "pytorchjobs" else "FailedJobs")

    def _condition(self, key: Key, kind: str, reason: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def change(job: Object) -> None:
            conditions = job.setdefault("status", {}).setdefault("conditions", [])
            for condition in conditions:
                if condition["type"] == "Running":
                    condition["status"] = "False"
            message = f"{job['kind']} {key[2]}: {reason}"
            conditions.append(
                {
                    "type": kind,
                    "status": TRUE,
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": now,
                }
            )

        self.server.store.update(key, change)

    def _put_pod(self, key: Key, pod: Pod, status: Object) -> None:
        store = self.server.store
        pod_key = ("pods", key[1], pod.name)
        if pod_key in store.objects:
            if store.objects[pod_key].get("status") != status:
                store.update(pod_key, lambda body: body.update(status=status))
            return
        metadata = {
            "name": pod.name,
            "namespace": key[1],
            "labels": pod.labels,
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec, "status": status}
        store.put(pod_key, body)

    def _remove_pod(self, key: Key, pod: Pod) -> None:
        self.server.store.remove(("pods", key[1], pod.name))

    def _start(self, key: Key, pod: Pod) -> None:
        """The kubelet's work: mount, expand, start."""
        source = self.folder / pod.name / "source"
        self._mount(key, pod, source)
        container = pod.spec["containers"][0]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        places = {mounts["source"]: source, mounts["run"]: self.claim}
        variables = self._variables(container, pod)
        argv = [relocate(expand(word, variables), places) for word in container["command"]]
        argv = [sys.executable if word == "python3" else word for word in argv]
        here = {name: relocate(value, places) for name, value in variables.items()}
        pod.log = self.folder / pod.name / "log"
        with pod.log.open("wb") as log:
            pod.process = subprocess.Popen(
                argv,
                env={"PATH": os.environ["PATH"], **here},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        path = pod.log
        self.server.store.logs["pods", key[1], pod.name] = lambda: path.read_text(errors="replace")
        self._put_pod(
            key, pod, {"phase": "Running", "containerStatuses": [{"name": "x", "state": {"running": {}}}]}
        )

    def _variables(self, container: Object, pod: Pod) -> dict[str, str]:
        values: dict[str, str] = {}
        for variable in container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                values[variable["name"]] = expand(variable["value"], values)
            elif reference["key"] in self.secret:
                values[variable["name"]] = self.secret[reference["key"]]
        return {**values, **pod.set_by_operator}

    def _mount(self, key: Key, pod: Pod, target: Path) -> None:
        target.mkdir(parents=True)
        for source in projected(pod.spec):
            body = self.server.store.objects["configmaps", key[1], source["configMap"]["name"]]
            for name, text in (body.get("data") or {}).items():
                (target / name).write_text(text, encoding="utf-8")
            for name, text in (body.get("binaryData") or {}).items():
                (target / name).write_bytes(base64.b64decode(text))

    def _end(self, pod: Pod) -> None:
        """SIGTERM to the container's first process, the grace period, SIGKILL to all."""
        process = pod.process
        assert process is not None
        everyone = tree(process.pid)
        process.send_signal(signal.SIGKILL if pod.is_lost else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(2.0, pod.spec["terminationGracePeriodSeconds"]))
        for other in everyone | tree(process.pid):
            with suppress(psutil.NoSuchProcess):
                other.kill()
        process.wait()

    def _delete(self, key: Key) -> None:
        for pod in self.jobs.get(key, []):
            if pod.process is not None:
                self._end(pod)
            self._remove_pod(key, pod)

    def _train_pods(self, job: Object) -> list[Pod]:
        runtime = self.server.store.objects["clustertrainingruntimes", "", job["spec"]["runtimeRef"]["name"]]
        return train_pods(job, runtime, self.port)


def tree(pid: int) -> set[psutil.Process]:
    """A process and its descendants; in a real pod they end with its first process."""
    try:
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def relocate(text: str, places: dict[str, Path]) -> str:
    """Paths of the pod as paths of the test."""
    for inside, outside in places.items():
        if text == inside or text.startswith(f"{inside}/"):
            return f"{outside}{text[len(inside) :]}"
    return text


def projected(pod: Object) -> list[Object]:
    return next(volume["projected"]["sources"] for volume in pod["volumes"] if "projected" in volume)


def ended(pod: Pod, code: int) -> Object:
    phase = "Failed" if code else "Succeeded"
    exit_code = code if code >= 0 else 128 - code
    state = {
        "terminated": {
            "exitCode": exit_code,
            "reason": "Error" if code else "Completed",
            "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    }
    return {
        "phase": phase,
        "containerStatuses": [{"name": pod.spec["containers"][0]["name"], "state": state}],
    }


def pytorch_pods(job: Object, port: int) -> list[Pod]:
    """The pods of a PyTorchJob, with the variables that Training Operator 1.9 sets."""
    name, spec = job["metadata"]["name"], job["spec"]
    replicas = spec["pytorchReplicaSpecs"]
    elastic = spec.get("elasticPolicy")
    total = sum(replica["replicas"] for replica in replicas.values())
    found = []
    for role, replica in replicas.items():
        for index in range(replica["replicas"]):
            rank = index + (1 if role == "Worker" and "Master" in replicas else 0)
            variables = {"PYTHONUNBUFFERED": "0", "PET_NPROC_PER_NODE": spec["nprocPerNode"]}
            if "Master" in replicas:
                meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                variables |= meeting | {f"PET_{key}": value for key, value in meeting.items()}
                variables |= {"RANK": str(rank), "PET_NODE_RANK": str(rank)}
                variables |= {"WORLD_SIZE": str(total * int(spec["nprocPerNode"]))}
            if elastic:
                conf = {entry["key"]: entry["value"] for entry in elastic.get("rdzvConf", [])}
                conf["is_host"] = str(int(index == 0))
                variables |= {
                    # On one machine the name of the first worker does not tell who holds the store.
                    "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
                    "PET_RDZV_CONF": ",".join(f"{key}={value}" for key, value in conf.items()),
                    "PET_RDZV_BACKEND": elastic["rdzvBackend"],
                    "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
                    "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
                }
            else:
                variables["PET_NNODES"] = str(total)
            labels = {
                **replica["template"].get("metadata", {}).get("labels", {}),
                "training.kubeflow.org/job-name": name,
                "training.kubeflow.org/replica-type": role.lower(),
                "training.kubeflow.org/replica-index": str(index),
            }
            pod = f"{name}-{role.lower()}-{index}"
            found.append(Pod(pod, labels, replica["template"]["spec"], variables))
    return found


def train_pods(job: Object, runtime: Object, port: int) -> list[Pod]:
    """The pods of a TrainJob: the runtime's `node` job, patched, with the torch plugin's variables."""
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    node = next(entry for entry in node_jobs(runtime["spec"]) if entry["name"] == "node")
    pod = dict(node["template"]["spec"]["template"]["spec"])
    container = dict(pod["containers"][0])
    labels = dict(node["template"]["spec"]["template"].get("metadata", {}).get("labels", {}))
    for patch in job["spec"].get("runtimePatches", []):
        template = node_jobs(patch["trainingRuntimeSpec"])[0]["template"]["spec"]["template"]
        labels |= template.get("metadata", {}).get("labels", {})
        pod |= {key: value for key, value in template["spec"].items() if key != "containers"}
        container |= template["spec"]["containers"][0]
    container |= {key: trainer[key] for key in ("image", "command", "env")}
    container["resources"] = trainer["resourcesPerNode"]
    pod["containers"] = [container]
    found = []
    for index in range(trainer["numNodes"]):
        variables = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(index),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        mine = {
            **labels,
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        found.append(Pod(f"{name}-node-0-{index}-abcde", mine, pod, variables))
    return found


def node_jobs(spec: Object) -> list[Any]:
    return list(spec["template"]["spec"]["replicatedJobs"])


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.05)
    return value
