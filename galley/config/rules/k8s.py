"""Rules of what `launcher=k8s` asks of its pods: resources, volumes, labels, the patch. Pure.

Types and fields are checked in the manifest, where Kubernetes' own schema knows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from galley.config.rules.k8s_names import k8s_name_problems, not_a_resource
from galley.config.rules.launcher import job_kind
from galley.errors import Problem, valid_values
from galley.schema import Recipe

OWN_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance")
_OPERATORS = (
    "training.kubeflow.org/",
    "trainer.kubeflow.org/",
    "jobset.sigs.k8s.io/",
    "batch.kubernetes.io/",
)
_FROM_CLUSTER = {"cpu": "cluster.cpus_per_node", "memory": "cluster.memory_gib_per_node"}
# Kubernetes takes a request of these also without a limit; of devices and huge pages the two are equal.
_FREE_REQUESTS = ("cpu", "memory", "ephemeral-storage")
_NATIVE = re.compile(r"ephemeral-storage|hugepages-[0-9]+[KMG]i")
_CAPABILITY = re.compile(r"(?!CAP_)[A-Z][A-Z0-9_]*")
_PATCH = "launcher.k8s.patch"
TRAINS = {"pytorchjob": "pytorch", "trainjob": "node"}
"""Kind of job -> the name of the container that trains."""


def k8s_problems(recipe: Recipe) -> Iterator[Problem]:
    """What Kubernetes would refuse, or Galley could not do without."""
    yield from k8s_name_problems(recipe)
    yield from _resources(recipe)
    yield from _volumes(recipe.launcher.k8s.volumes)
    yield from _labels(recipe.launcher.k8s.labels)
    for name in recipe.launcher.k8s.capabilities:
        if not _CAPABILITY.fullmatch(name):
            hint = "upper case, without CAP_: IPC_LOCK, SYS_NICE"
            yield Problem("launcher.k8s.capabilities", f"'{name}' is not a capability", hint)
    yield from _patch(recipe)


def _resources(recipe: Recipe) -> Iterator[Problem]:
    options = recipe.launcher.k8s
    for name in options.resources:
        where = f"launcher.k8s.resources.{name}"
        if name in _FROM_CLUSTER:
            yield Problem(where, f"the recipe says how much {name} a pod has", f"set {_FROM_CLUSTER[name]}=N")
        elif name == options.gpu_resource:
            yield Problem(where, "is what GPUs are counted by", "set cluster.gpus_per_node=N")
        elif not _NATIVE.fullmatch(name) and (wrong := not_a_resource(name)) is not None:
            hint = "such as ephemeral-storage, hugepages-2Mi or vpc.amazonaws.com/efa"
            yield Problem(where, f"'{name}' {wrong}", hint)
    valid = list(dict.fromkeys((*_FREE_REQUESTS, *options.resources)))
    for name in options.requests:
        if name not in valid and name != options.gpu_resource:
            what = f"a pod has no limit of {name}, and may request no other resource without one"
            yield Problem(f"launcher.k8s.requests.{name}", what, valid_values(name, valid))


def _volumes(volumes: list[dict[str, Any]]) -> Iterator[Problem]:
    for number, volume in enumerate(volumes):
        if not isinstance(volume.get("mountPath"), str):
            what = f"entry {number} does not say where pods see it"
            yield Problem("launcher.k8s.volumes", what, "{mountPath: /data, …}")
        if volume.get("name") in ("run", "source", "shm"):
            what = f"entry {number} is called '{volume['name']}', as a volume of Galley's"
            yield Problem("launcher.k8s.volumes", what, "give it another name, or none")


def _labels(labels: dict[str, str]) -> Iterator[Problem]:
    for name in labels:
        if (who := _owner(name)) is not None:
            yield Problem(f"launcher.k8s.labels.{name}", f"is set by {who}", "choose another label")


def _owner(label: str) -> str | None:
    """Who else sets the label; null if nobody does."""
    if label in OWN_LABELS:
        return "Galley"
    return "the operator" if label.startswith(_OPERATORS) else None


def _patch(recipe: Recipe) -> Iterator[Problem]:
    """What is sealed, or what the operator replaces, is not to be patched."""
    patch = recipe.launcher.k8s.patch
    metadata, spec = patch.get("metadata", {}), patch.get("spec", {})
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        yield Problem(_PATCH, "metadata and spec are mappings", "{spec: {runtimeClassName: nvidia}}")
        return
    if "restartPolicy" in spec:
        yield Problem(_PATCH, "spec.restartPolicy is the operator's", "set launcher.k8s.max_restarts")
    if "$patch" in patch or "$patch" in spec:
        yield Problem(_PATCH, "takes away what the run needs", "leave $patch out")
    for name in metadata.get("labels") or {}:
        if (who := _owner(name)) is not None:
            yield Problem(_PATCH, f"the label {name} is set by {who}", "choose another label")
    containers = spec.get("containers", [])
    if not isinstance(containers, list) or not all(isinstance(item, dict) for item in containers):
        yield Problem(_PATCH, "spec.containers is not a list of containers", "a list: [{name: NAME, …}]")
        return
    trains = TRAINS[job_kind(recipe.launcher)]
    for container in containers:
        if container.get("name") == trains:
            yield from _patched_container(container)


def _patched_container(container: dict[str, Any]) -> Iterator[Problem]:
    name = container["name"]
    for field in ("command", "args"):
        if field in container:
            what = f"the {field} of container '{name}' unpack and start the sealed run"
            yield Problem(_PATCH, what, "set launcher.k8s.python, or add a container")
    if "$patch" in container:
        yield Problem(_PATCH, f"container '{name}' is the one that trains", "leave $patch out")
