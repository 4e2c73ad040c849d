"""The parts of every pod of a run, for any kind of job. Pure functions."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

from galley.schema import K8s
from galley.spec import ClusterFacts, RunSpec
from launchers.common.worker_command import attempt_environment, rank_environment, torchrun, worker_command
from launchers.k8s.manifest.names import code_name

Object = dict[str, Any]

SOURCE = "/etc/galley"  # the ConfigMaps, read-only
_MIN_GRACE_S = 30  # Kubernetes' own default
# The node's process derives these from the operator's variables; v1 appends its own to the pod.
_SET_IN_POD = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PYTHONUNBUFFERED"})


def literal(text: str) -> str:
    """Escape text: Kubernetes replaces `$(NAME)` in arguments and values, and reads `$$` as `$`."""
    return text.replace("$", "$$")


def command(spec: RunSpec, run_dir: PurePosixPath, job: str, attempt: int) -> list[str]:
    """Return the arguments of the container: verify, unpack, then the torchrun agent of one node."""
    options = spec.recipe.launcher.k8s
    unpack = (
        *(options.python, "-P", f"{SOURCE}/unpack.py"),
        *("--run-dir", str(run_dir), "--run-sha256", spec.sha256, "--code-sha256", spec.code.sha256, "--"),
    )
    node = (
        *(options.python, "-P", "-m", "launchers.k8s.node"),
        *("--run-dir", str(run_dir), "--attempt", str(attempt)),
        *(["--elastic"] if options.max_nodes else ["--nodes", str(spec.layout.nodes)]),
        *("--procs-per-node", str(spec.layout.procs_per_node)),
        *(["--send-files"] if options.transport == "configmap" else []),
        "--",
    )
    return [literal(word) for word in (*unpack, *node, *_ranks(spec, run_dir, job))]


def _ranks(spec: RunSpec, run_dir: PurePosixPath, job: str) -> tuple[str, ...]:
    """Return torchrun and the worker. A lone rank needs no torchrun."""
    options = spec.recipe.launcher.k8s
    worker = worker_command(options.python, spec, Path(run_dir))
    if options.max_nodes:
        rendezvous = (
            *("--rdzv-backend=c10d", f"--rdzv-id={job}"),
            f"--nnodes={options.min_nodes or 1}:{options.max_nodes}",
            f"--nproc-per-node={spec.layout.procs_per_node}",
            f"--max-restarts={options.max_restarts}",
            "--monitor-interval=0.1",
            "--no-python",
        )
        return (options.python, "-P", "-m", "torch.distributed.run", *rendezvous, *worker)
    if spec.layout.world_size == 1:
        return worker
    return (*torchrun(options.python, spec, ()), *worker)


def environment(spec: RunSpec, run_dir: PurePosixPath, attempt: int) -> list[Object]:
    """Return the variables of the container, all of them text. Secrets are references, never values."""
    launcher = spec.recipe.launcher
    values = {
        "HOME": "/tmp",  # noqa: S108  # the image's user may have none
        **_caches(launcher.k8s),
        **attempt_environment(attempt),
        **({"GALLEY_RESUME": "1"} if launcher.k8s.max_restarts or launcher.k8s.max_nodes else {}),
        **({"GALLEY_ELASTIC": "1"} if launcher.k8s.max_nodes else {}),
        **rank_environment(spec, Path(run_dir)),
    }
    plain = [
        {"name": name, "value": literal(value)}
        for name, value in sorted(values.items())
        if name not in _SET_IN_POD
    ]
    return plain + [secret_reference(name, launcher.k8s.secret) for name in launcher.forward_env]


def _caches(options: K8s) -> dict[str, str]:
    """Return the variables that keep downloads and tokenized data on the claim."""
    if options.claim is None:
        return {}
    cache = PurePosixPath(options.mount_path) / ".cache"
    return {"HF_HOME": str(cache / "huggingface"), "XDG_CACHE_HOME": str(cache)}


def secret_reference(name: str, secret: str) -> Object:
    return {
        "name": name,
        "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}},
    }


def resources(spec: RunSpec) -> Object:
    """Return requests equal to limits, except where the recipe requests less.

    Equal ones reserve the resources for the pod, and Kubernetes evicts such a pod last.
    """
    cluster, layout, options = spec.recipe.cluster, spec.layout, spec.recipe.launcher.k8s
    cpus = cluster.cpus_per_node or layout.procs_per_node * layout.threads_per_proc
    limits = {"cpu": str(cpus)}
    if cluster.memory_gib_per_node is not None:
        limits["memory"] = quantity(cluster.memory_gib_per_node)
    if layout.device == "cuda":
        gpus = cluster.gpus_per_node or layout.procs_per_node
        limits[options.gpu_resource] = str(gpus)
    limits |= {name: str(amount) for name, amount in options.resources.items()}
    return {"limits": limits, "requests": limits | {name: str(n) for name, n in options.requests.items()}}


def quantity(gib: float) -> str:
    """Return GiB in Kubernetes' notation."""
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{round(gib * 1024)}Mi"


_OF_A_MOUNT = ("mountPath", "subPath", "subPathExpr", "readOnly", "mountPropagation", "recursiveReadOnly")


def volumes(options: K8s, job: str) -> list[Object]:
    sources = [{"configMap": {"name": job}}]
    if options.transport == "configmap":
        sources.append({"configMap": {"name": code_name(job)}})
    shm: Object = {"medium": "Memory"}
    if options.shm_gib is not None:
        shm["sizeLimit"] = quantity(options.shm_gib)

    kept: Object = {"persistentVolumeClaim": {"claimName": options.claim}}
    further = [
        {"name": _volume_name(number, volume)}
        | {name: part for name, part in volume.items() if name not in _OF_A_MOUNT}
        for number, volume in enumerate(options.volumes)
    ]

    return [
        {"name": "run", **(kept if options.claim is not None else {"emptyDir": {}})},
        {"name": "source", "projected": {"sources": sources}},
        {"name": "shm", "emptyDir": shm},
        *further,
    ]


def _volume_name(number: int, volume: Object) -> str:
    return str(volume.get("name", f"volume-{number}"))


def volume_mounts(options: K8s) -> list[Object]:
    further = [
        {"name": _volume_name(number, volume)}
        | {name: volume[name] for name in _OF_A_MOUNT if name in volume}
        for number, volume in enumerate(options.volumes)
    ]
    part = {} if options.sub_path is None else {"subPath": options.sub_path}
    return [
        {"name": "run", "mountPath": options.mount_path, **part},
        {"name": "source", "mountPath": SOURCE, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        *further,
    ]


def container_security(options: K8s) -> Object:
    added: Object = {"add": options.capabilities} if options.capabilities else {}
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], **added}}


def pod_fields(spec: RunSpec, facts: ClusterFacts, job: str, labels: dict[str, str]) -> Object:
    """Return the fields of a pod besides the container that trains, without those that are not set.

    `labels` are those of the job's pods.
    """
    options = spec.recipe.launcher.k8s
    ids = {
        "runAsUser": options.run_as_user,
        "runAsGroup": options.run_as_group,
        "fsGroup": options.fs_group,
    }
    fields: Object = {
        "serviceAccountName": options.service_account,
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "nodeSelector": options.node_selector,
        "affinity": options.affinity,
        "tolerations": [dict(toleration) for toleration in options.tolerations],
        "topologySpreadConstraints": [_spread(entry, labels) for entry in options.topology_spread],
        "hostNetwork": options.host_network or None,
        "dnsPolicy": options.dns_policy or ("ClusterFirstWithHostNet" if options.host_network else None),
        "securityContext": {
            "runAsNonRoot": True,
            **{name: number for name, number in ids.items() if number is not None},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": termination_grace_s(spec, facts),
        "volumes": volumes(options, job),
        "initContainers": [_init_container(options, written) for written in options.init_containers],
    }
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def _spread(entry: Object, labels: dict[str, str]) -> Object:
    return {"labelSelector": {"matchLabels": labels}, **entry}


def _init_container(options: K8s, written: Object) -> Object:
    return {
        "image": options.image,
        "securityContext": container_security(options),
        "volumeMounts": volume_mounts(options),
        **written,
    }


def termination_grace_s(spec: RunSpec, facts: ClusterFacts) -> int:
    launcher = spec.recipe.launcher
    if launcher.k8s.termination_grace_s is not None:
        return launcher.k8s.termination_grace_s
    return max(_MIN_GRACE_S, math.ceil(launcher.grace_s), math.ceil(2 * facts.save_s))


SCHEDULERS = {"none": None, "volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"}


def scheduling_fields(options: K8s) -> Object:
    """Return the fields that decide who places the pod, and before which others."""
    fields = {
        "schedulerName": options.scheduler or SCHEDULERS[options.gang],
        "priorityClassName": options.priority_class,
    }
    return {name: value for name, value in fields.items() if value is not None}
