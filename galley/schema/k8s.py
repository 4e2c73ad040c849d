"""What only Kubernetes knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.schema.types import NonNegative, Positive


@dataclass(frozen=True)
class K8s:
    """What only Kubernetes knows (`launcher=k8s`). Names are those of Kubernetes' own fields.

    Attributes:
        kind: `pytorchjob` (Kubeflow Training Operator v1) or `trainjob` (Kubeflow Trainer v2).
        context, namespace: null is kubectl's current one.
        name: of the job, before the number of the attempt; null follows from the run folder.
        image: with Python and the packages of the run; the code is not part of it.
        python: the interpreter inside the image.
        transport: how code and run.json reach the pods: `configmap` needs no shared storage here;
            with `claim` the run folder lies on the claim, which is mounted here at `claim_here`.
        claim: PersistentVolumeClaim for run folders and caches; null loses everything but the
            result and the logs when the pods end.
        claim_here: folder at which this machine sees the claim, for `transport: claim`.
        mount_path: folder at which the pods see the claim.
        image_folders: folders of the image that the recipe may name (`data.path`, `model.name`).
        upload: send the folders of this machine that the recipe names along with the code: small ones
            with `transport: configmap`, which carries 576 KiB of them when compressed.
        sub_path: folder of the claim that the pods see at `mount_path`; null is all of it.
        volumes: further ones, each a volume of Kubernetes with the `mountPath`, and perhaps `subPath` and
            `readOnly`, of its mount: `{mountPath: /data, nfs: {server: S, path: /data}}`.
        shm_gib: size of /dev/shm, which counts as memory; null is up to the pod's memory limit.
        gpu_resource: the resource that `cluster.gpus_per_node` counts.
        resources: further resources of a pod, requested and limited: `{vpc.amazonaws.com/efa: 4,
            hugepages-2Mi: 5Gi, ephemeral-storage: 100Gi}`.
        requests: what is requested of a resource if it is less than its limit: `{cpu: 4}`. Memory and
            ephemeral-storage may be requested without a limit.
        tolerations: `{key, operator, value, effect}` each.
        affinity: as in a pod.
        topology_spread: `topologySpreadConstraints` of a pod; one without `labelSelector` is about the pods
            of this job.
        labels, annotations: of the pods.
        host_network: pods use the network of their nodes, with the DNS of the cluster.
        dns_policy: null is that of `host_network`, or the cluster's.
        capabilities: that the container gets, such as `IPC_LOCK` for RDMA; all others are dropped.
        env_from: as in a container: `[{secretRef: {name: S}}, {configMapRef: {name: C}}]`.
        init_containers: as in a pod; one without `image`, `volumeMounts` or `securityContext` has those
            of the container that trains.
        patch: merged into the pod template as `kubectl patch` does (strategic merge), for what has no key
            here: `{spec: {runtimeClassName: nvidia}}`. The container that trains is `pytorch` in a
            PyTorchJob and `node` in a TrainJob.
        secret: the Secret with a key for each name of `launcher.forward_env`; absent keys are
            left out. Values never leave the cluster.
        run_as_user, run_as_group, fs_group: ids of the non-root user of the pods; null leaves one to
            the cluster (OpenShift).
        queue: a Kueue LocalQueue.
        gang: who starts all pods or none.
        scheduler: null is that of `gang`, or the cluster's.
        gang_timeout_s: seconds the pods of a gang wait for each other.
        min_nodes, max_nodes: an elastic PyTorchJob; `cluster.nodes` is where it starts.
        max_restarts: of the ranks of an elastic job, or of a pod that ends.
        last_call_s: how long an elastic job that has `min_nodes` waits for further pods.
        clean_pods: what the operator removes when the job ends: `Running` pods only, which keeps
            the logs of all that have ended; `All`; or `None`.
        termination_grace_s: seconds between a pod's SIGTERM and its kill; null is twice the
            longest save of earlier attempts, and at least `launcher.grace_s` and 30.
        keep_s: seconds after which the cluster forgets a job that has ended; null never does.
        runtime: the training runtime of a TrainJob; null brings one along.
    """

    kind: Literal["pytorchjob", "trainjob"] = "pytorchjob"
    context: str | None = None
    namespace: str | None = None
    name: str | None = None
    image: str = "galley:cpu"
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: list[str] = field(default_factory=list)
    python: str = "python3"
    transport: Literal["configmap", "claim"] = "configmap"
    claim: str | None = "galley"
    claim_here: str | None = None
    mount_path: str = "/galley"
    sub_path: str | None = None
    volumes: list[dict[str, Any]] = field(default_factory=list)
    image_folders: list[str] = field(default_factory=list)
    upload: bool = False
    shm_gib: Annotated[float, Field(gt=0)] | None = None
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = field(default_factory=dict)
    resources: dict[str, int | float | str] = field(default_factory=dict)
    requests: dict[str, int | float | str] = field(default_factory=dict)
    tolerations: list[dict[str, str | int]] = field(default_factory=list)
    affinity: dict[str, Any] = field(default_factory=dict)
    topology_spread: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    host_network: bool = False
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] | None = None
    capabilities: list[str] = field(default_factory=list)
    env_from: list[dict[str, Any]] = field(default_factory=list)
    init_containers: list[dict[str, Any]] = field(default_factory=list)
    patch: dict[str, Any] = field(default_factory=dict)
    service_account: str | None = None
    secret: str = "galley"  # noqa: S105
    run_as_user: Positive | None = 1000
    run_as_group: Positive | None = 1000
    fs_group: Positive | None = 1000
    priority_class: str | None = None
    queue: str | None = None
    gang: Literal["none", "volcano", "coscheduling"] = "none"
    scheduler: str | None = None
    gang_timeout_s: Positive = 600
    min_nodes: Positive | None = None
    max_nodes: Positive | None = None
    max_restarts: NonNegative = 0
    last_call_s: Positive = 30
    clean_pods: Literal["Running", "All", "None"] = "Running"
    termination_grace_s: Positive | None = None
    keep_s: NonNegative | None = None
    runtime: str | None = None
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
