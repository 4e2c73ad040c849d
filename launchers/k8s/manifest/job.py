"""RunSpec -> the objects of a job. Pure: equal arguments give equal objects.

PyTorchJob: kubeflow.org/v1. TrainJob and ClusterTrainingRuntime: trainer.kubeflow.org/v1alpha1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from galley.config.rules.launcher import job_kind
from galley.schema import K8s
from galley.spec import ClusterFacts, RunSpec, to_json
from launchers.common.worker_command import elastic_conf
from launchers.k8s.manifest import pod
from launchers.k8s.manifest.merge import merge
from launchers.k8s.manifest.names import base_name, job_name, pod_run_dir

Object = dict[str, Any]

MANAGER = "galley.dev/launcher"  # the manager of the patches of the runtime
NODE = "node"  # the job of a TrainJob's pods, and the container of each that trains
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TRAINER_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
UNPACK = Path(__file__).resolve().parents[1] / "unpack.py"
KINDS = {"pytorchjob": "pytorchjobs.kubeflow.org", "trainjob": "trainjobs.trainer.kubeflow.org"}


@dataclass(frozen=True)
class Job:
    """One attempt of a run, as its objects name it.

    Attributes:
        base: the name that all attempts share.
        name: of the job, its ConfigMap and its runtime.
        run_dir: the run folder as the pods see it.
    """

    spec: RunSpec
    facts: ClusterFacts
    attempt: int
    base: str
    name: str
    run_dir: PurePosixPath

    @property
    def options(self) -> K8s:
        return self.spec.recipe.launcher.k8s


def make_job(spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> Job:
    """Return the attempt with its names and paths."""
    base = base_name(spec, run_dir)
    folder = pod_run_dir(spec.recipe.launcher.k8s, base, run_dir)
    return Job(spec, facts, attempt, base, job_name(base, attempt), folder)


def kind_of(spec: RunSpec) -> str:
    return job_kind(spec.recipe.launcher)


def build(job: Job) -> list[Object]:
    """Return all objects of the attempt, in the order of their creation."""
    sealed = config_map(job)
    if kind_of(job.spec) == "pytorchjob":
        return [sealed, pytorch_job(job)]
    runtimes = [] if job.options.runtime is not None else [training_runtime(job)]
    return [sealed, *runtimes, train_job(job)]


def config_map(job: Job) -> Object:
    """Return the ConfigMap of the sealed run, and of the program that checks it in the pod."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, job.name),
        "data": {"run.json": to_json(job.spec.sealed), "unpack.py": UNPACK.read_text(encoding="utf-8")},
    }


def metadata(job: Job, name: str, namespaced: bool = True) -> Object:
    labels = {"app.kubernetes.io/managed-by": "galley", "app.kubernetes.io/instance": job.base}
    namespace = {"namespace": job.options.namespace} if namespaced and job.options.namespace else {}
    return {"name": name, **namespace, "labels": labels}


def _job_metadata(job: Job) -> Object:
    data = metadata(job, job.name)
    if job.options.queue is not None:
        data["labels"][QUEUE_LABEL] = job.options.queue
    return data


def pytorch_job(job: Job) -> Object:
    """Return a Master and Workers; for elastic training only Workers, whose first holds the rendezvous."""
    options, nodes = job.options, job.spec.layout.nodes
    elastic = options.max_nodes is not None
    if elastic:
        replicas = {"Worker": _replica(job, nodes)}
    else:
        replicas = {"Master": _replica(job, 1)}
        if nodes > 1:
            replicas["Worker"] = _replica(job, nodes - 1)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _job_metadata(job),
        "spec": {
            **({"elasticPolicy": _elastic_policy(job)} if elastic else {}),
            "nprocPerNode": str(job.spec.layout.procs_per_node),
            "runPolicy": _run_policy(job),
            "pytorchReplicaSpecs": replicas,
        },
    }


def _elastic_policy(job: Job) -> Object:
    options = job.options
    conf = elastic_conf(job.spec.recipe.launcher, options.last_call_s)
    return {
        "rdzvBackend": "c10d",
        **({"rdzvConf": [{"key": key, "value": value} for key, value in conf.items()]} if conf else {}),
        "minReplicas": options.min_nodes or 1,
        "maxReplicas": options.max_nodes,
        "maxRestarts": options.max_restarts,
    }


def _run_policy(job: Job) -> Object:
    options, limit = job.options, job.spec.recipe.cluster.time_limit_min
    policy: Object = {"cleanPodPolicy": options.clean_pods, "backoffLimit": options.max_restarts}
    if options.keep_s is not None:
        policy["ttlSecondsAfterFinished"] = options.keep_s
    if limit is not None:
        policy["activeDeadlineSeconds"] = 60 * limit
    if options.gang != "none":
        policy["schedulingPolicy"] = {
            "minAvailable": options.min_nodes or job.spec.layout.nodes,
            "scheduleTimeoutSeconds": options.gang_timeout_s,
            **({"priorityClass": options.priority_class} if options.priority_class else {}),
        }
    return policy


def _replica(job: Job, count: int) -> Object:
    """Return the pods of one role. The operator identifies the container by its name, `pytorch`."""
    return {
        "replicas": count,
        "restartPolicy": "OnFailure" if job.options.max_restarts else "Never",
        "template": pod_template(job, "pytorch"),
    }


def pod_template(job: Job, container: str) -> Object:
    """Return a pod of the run, with `launcher.k8s.patch` merged into it.

    `container` is the one that trains.
    """
    options = job.options
    trains: Object = {
        "name": container,
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "command": pod.command(job.spec, job.run_dir, job.name, job.attempt),
        "env": pod.environment(job.spec, job.run_dir, job.attempt),
        **({"envFrom": options.env_from} if options.env_from else {}),
        "resources": pod.resources(job.spec),
        "securityContext": pod.container_security(options),
        "volumeMounts": pod.volume_mounts(options),
    }

    labels = metadata(job, job.name)["labels"]
    annotations = {"annotations": options.annotations} if options.annotations else {}
    template = {
        "metadata": {"labels": {**options.labels, **labels}, **annotations},
        "spec": {
            **pod.scheduling_fields(options),
            **pod.pod_fields(job.spec, job.facts, job.name, labels),
            "containers": [trains],
        },
    }
    return dict(merge(template, options.patch))


def train_job(job: Job) -> Object:
    """Return a TrainJob.

    What its own fields cannot express of the pods is in the runtime that Galley creates, or in a
    patch of an existing one.
    """
    options, limit = job.options, job.spec.recipe.cluster.time_limit_min
    runtime = {"name": options.runtime, "kind": options.runtime_kind}
    trainer, template = _trainer_and_pods(job)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _job_metadata(job),
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                **(runtime if options.runtime else {"name": job.name, "kind": "ClusterTrainingRuntime"}),
            },
            **({"activeDeadlineSeconds": 60 * limit} if limit is not None else {}),
            "trainer": {
                **trainer,
                "numNodes": job.spec.layout.nodes,
                "numProcPerNode": job.spec.layout.procs_per_node,
            },
            **({"runtimePatches": [_runtime_patch(template)]} if options.runtime else {}),
        },
    }


# A container's field -> the trainer's field with which the operator replaces it.
_TRAINER = {"image": "image", "command": "command", "env": "env", "resources": "resourcesPerNode"}


def _trainer_and_pods(job: Job) -> tuple[Object, Object]:
    """Return the fields of a TrainJob's trainer, and the pod template without them."""
    template = pod_template(job, NODE)
    containers = template["spec"]["containers"]
    trains: Object = next((c for c in containers if c.get("name") == NODE), {})
    trainer = {name: trains[field] for field, name in _TRAINER.items() if field in trains}
    moved = _TRAINER if job.options.runtime is None else {**_TRAINER, "imagePullPolicy": ""}
    left = {field: value for field, value in trains.items() if field not in moved}
    others = [left if container is trains else container for container in containers]
    return trainer, {**template, "spec": {**template["spec"], "containers": others}}


def _runtime_patch(template: Object) -> Object:
    nodes = {"name": NODE, "template": {"spec": {"template": template}}}
    spec = {"template": {"spec": {"replicatedJobs": [nodes]}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": spec}


def training_runtime(job: Job) -> Object:
    """Return the runtime of a TrainJob that names none: torch on `node` pods, nothing restarted."""
    options = job.options
    trainer, pods = _trainer_and_pods(job)
    containers = [
        {"name": NODE, "image": trainer["image"], **container} if container.get("name") == NODE else container
        for container in pods["spec"]["containers"]
    ]
    pods = {**pods, "spec": {**pods["spec"], "restartPolicy": "Never", "containers": containers}}

    forget = {"ttlSecondsAfterFinished": options.keep_s} if options.keep_s is not None else {}
    gang: dict[str, Object] = {
        "none": {},
        "volcano": {"podGroupPolicy": {"volcano": {}}},
        "coscheduling": {
            "podGroupPolicy": {"coscheduling": {"scheduleTimeoutSeconds": options.gang_timeout_s}}
        },
    }
    node_job = {
        "name": NODE,
        "template": {
            "metadata": {"labels": {TRAINER_LABEL: "trainer"}},
            "spec": {"backoffLimit": options.max_restarts, "template": pods},
        },
    }

    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": metadata(job, job.name, namespaced=False),
        "spec": {
            "mlPolicy": {"numNodes": job.spec.layout.nodes, "torch": {}},
            **gang[options.gang],
            "template": {"spec": {**forget, "replicatedJobs": [node_job]}},
        },
    }
