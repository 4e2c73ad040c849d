"""Find what is wrong with objects, before a server is asked.

Checks names, types, and rules that the CRDs do not check but the operators rely on. Every problem is found,
each with the field's path.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from galley.config.rules.k8s_names import MAX_LABEL, not_an_image
from galley.errors import Problem, valid_values
from launchers.k8s.validation.fields import OBJECTS
from launchers.k8s.validation.types import amount, type_problems

Object = dict[str, Any]

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ENV_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
ROLES = ("Master", "Worker")
RESTART = ("Always", "OnFailure", "Never", "ExitCode")
POD_RESTART = ("Always", "OnFailure", "Never")
CLEAN_PODS = ("Running", "All", "None")
PULL = ("Always", "IfNotPresent", "Never")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
RUNTIMES = ("ClusterTrainingRuntime", "TrainingRuntime")
MAX_CONFIG_MAP = 1024**2  # bytes of all values
BACKENDS = ("c10d", "etcd", "etcd-v2")
RESERVED_ENV = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


def manifest_problems(objects: Sequence[Object]) -> list[Problem]:
    """Return everything that is wrong with the objects of one job. A repeated problem is listed once."""
    problems = [problem for body in objects for problem in object_problems(body)]
    return list({(problem.where.rpartition(".")[2], problem.what): problem for problem in problems}.values())


def object_problems(body: Object) -> list[Problem]:
    """Return the problems of one object. Rules are only checked if all types are right."""
    identity = (str(body.get("apiVersion")), str(body.get("kind")))
    fields = OBJECTS.get(identity)
    if fields is None:
        valid = ", ".join(f"{version} {kind}" for version, kind in OBJECTS)
        return [Problem("kind", f"{identity[0]} {identity[1]} is not written by Galley", f"valid: {valid}")]
    problems = list(type_problems(body, fields)) or list(_rules(body))
    return [Problem(f"{identity[1]} {p.where}", p.what, p.hint) for p in problems]


def _rules(body: Object) -> Iterator[Problem]:
    yield from _metadata(body["metadata"], strict=body["kind"] != "ConfigMap")
    if body["kind"] == "ConfigMap":
        yield from _config_map(body)
    if body["kind"] == "PyTorchJob":
        yield from _pytorch_job(body["spec"])
    elif body["kind"] == "TrainJob":
        yield from _train_job(body["spec"])
    elif body["kind"] == "ClusterTrainingRuntime":
        yield from _runtime(body["spec"])


def _config_map(body: Object) -> Iterator[Problem]:
    """Check the size. The server counts decoded values, and binary data are longer in base64."""
    texts = [text.encode() for text in body.get("data", {}).values()]
    size = sum(map(len, [*texts, *(base64.b64decode(text) for text in body.get("binaryData", {}).values())]))
    if size > MAX_CONFIG_MAP:
        what = f"the sealed run takes {size} bytes, a ConfigMap holds {MAX_CONFIG_MAP}"
        yield Problem("data", what, "make the long lists and texts of the recipe shorter")


def _metadata(metadata: Object, strict: bool) -> Iterator[Problem]:
    """Check names. Names of jobs become those of services and hosts, which must be DNS-1035 labels."""
    name, pattern = metadata["name"], _DNS_1035 if strict else _DNS_1123
    if len(name) > MAX_LABEL:
        yield Problem("metadata.name", f"'{name}' has {len(name)} characters", f"at most {MAX_LABEL}")
    if not pattern.fullmatch(name):
        hint = "lowercase letters, digits and '-', a letter first (DNS-1035): set launcher.k8s.name"
        yield Problem("metadata.name", f"'{name}' is not a name", hint)
    if "namespace" in metadata and not _DNS_1123.fullmatch(metadata["namespace"]):
        yield Problem("metadata.namespace", f"'{metadata['namespace']}' is not a name")
    yield from _labels(metadata.get("labels", {}), "metadata.labels")


def _labels(labels: dict[str, str], path: str) -> Iterator[Problem]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL.fullmatch(value):
            hint = "letters, digits, '-', '_' and '.', at most 63"
            yield Problem(f"{path}.{key}", f"'{key}: {value}' is not a label", hint)


def _pod_metadata(metadata: Object, path: str) -> Iterator[Problem]:
    yield from _labels(metadata.get("labels", {}), f"{path}.labels")
    for key in metadata.get("annotations", {}):
        if not _LABEL_KEY.fullmatch(key):
            yield Problem(f"{path}.annotations.{key}", f"'{key}' is not the name of an annotation")


def _one_of(value: str | None, valid: Collection[str], path: str) -> Iterator[Problem]:
    if value is not None and value not in valid:
        yield Problem(path, f"'{value}' is not a valid value", valid_values(value, valid))


def _at_least(section: Object, name: str, least: int, path: str) -> Iterator[Problem]:
    if name in section and section[name] < least:
        yield Problem(f"{path}.{name}", f"{section[name]} is less than {least}")


def _pytorch_job(spec: Object) -> Iterator[Problem]:
    replicas, path = spec["pytorchReplicaSpecs"], "spec.pytorchReplicaSpecs"
    if not replicas:
        yield Problem(path, "has no pods", f"valid: {', '.join(ROLES)}")
    for role, replica in replicas.items():
        yield from _one_of(role, ROLES, f"{path}.{role}")
        yield from _replica(replica, f"{path}.{role}")
    if replicas.get("Master", {}).get("replicas", 1) != 1:
        yield Problem(f"{path}.Master.replicas", "must be 1: the rendezvous is there")
    procs = spec.get("nprocPerNode", "auto")
    if not (procs.isdigit() and int(procs) > 0) and procs not in ("auto", "cpu", "gpu"):
        yield Problem("spec.nprocPerNode", f"'{procs}' is not a number of ranks")
    yield from _run_policy(spec.get("runPolicy", {}), replicas)
    if "elasticPolicy" in spec:
        yield from _elastic(spec["elasticPolicy"], replicas)


def _replica(replica: Object, path: str) -> Iterator[Problem]:
    yield from _at_least(replica, "replicas", 1, path)
    yield from _one_of(replica.get("restartPolicy"), RESTART, f"{path}.restartPolicy")
    template = replica["template"]
    yield from _pod_metadata(template.get("metadata", {}), f"{path}.template.metadata")
    yield from _pod(template["spec"], f"{path}.template.spec", "pytorch")


def _run_policy(policy: Object, replicas: Object) -> Iterator[Problem]:
    path = "spec.runPolicy"
    yield from _one_of(policy.get("cleanPodPolicy"), CLEAN_PODS, f"{path}.cleanPodPolicy")
    yield from _at_least(policy, "backoffLimit", 0, path)
    yield from _at_least(policy, "ttlSecondsAfterFinished", 0, path)
    yield from _at_least(policy, "activeDeadlineSeconds", 1, path)
    gang = policy.get("schedulingPolicy", {})
    pods = sum(replica["replicas"] for replica in replicas.values())
    yield from _at_least(gang, "minAvailable", 1, f"{path}.schedulingPolicy")
    if gang.get("minAvailable", 1) > pods:
        what = f"{gang['minAvailable']} pods would wait for ever: the job has {pods}"
        yield Problem(f"{path}.schedulingPolicy.minAvailable", what)


def _elastic(policy: Object, replicas: Object) -> Iterator[Problem]:
    path = "spec.elasticPolicy"
    yield from _one_of(policy.get("rdzvBackend"), BACKENDS, f"{path}.rdzvBackend")
    yield from _at_least(policy, "minReplicas", 1, path)
    yield from _at_least(policy, "maxRestarts", 0, path)

    if "Master" in replicas:
        what = "an elastic job has Workers only"
        yield Problem("spec.pytorchReplicaSpecs.Master", what, "the first Worker holds the rendezvous")
    if "Worker" not in replicas:
        yield Problem("spec.pytorchReplicaSpecs.Worker", "is required by spec.elasticPolicy")
        return

    least, most = policy.get("minReplicas", 1), policy.get("maxReplicas")
    if most is not None and least > most:
        what = f"minReplicas {least} > maxReplicas {most}"
        yield Problem(f"{path}.minReplicas", what, "set launcher.k8s.min_nodes <= launcher.k8s.max_nodes")
    count = replicas["Worker"]["replicas"]
    if most is not None and least <= most and not least <= count <= most:
        what = f"{count} is not within {least} … {most}"
        yield Problem("spec.pytorchReplicaSpecs.Worker.replicas", what, "set cluster.nodes")


def _train_job(spec: Object) -> Iterator[Problem]:
    yield from _one_of(spec["runtimeRef"].get("kind"), RUNTIMES, "spec.runtimeRef.kind")
    if not _DNS_1123.fullmatch(spec["runtimeRef"]["name"]):
        yield Problem("spec.runtimeRef.name", f"'{spec['runtimeRef']['name']}' is not a name")
    yield from _at_least(spec, "activeDeadlineSeconds", 1, "spec")
    trainer = spec.get("trainer", {})
    yield from _at_least(trainer, "numNodes", 1, "spec.trainer")
    yield from _at_least(trainer, "numProcPerNode", 1, "spec.trainer")
    yield from _env(trainer.get("env", []), "spec.trainer.env", RESERVED_ENV)
    yield from _resources(trainer.get("resourcesPerNode", {}), "spec.trainer.resourcesPerNode")
    for index, patch in enumerate(spec.get("runtimePatches", [])):
        path = f"spec.runtimePatches[{index}]"
        if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._/-]+", patch["manager"]):
            yield Problem(f"{path}.manager", f"'{patch['manager']}' is not DOMAIN/NAME")
        yield from _node_pods(patch.get("trainingRuntimeSpec", {}), f"{path}.trainingRuntimeSpec", True)


def _runtime(spec: Object) -> Iterator[Problem]:
    yield from _at_least(spec.get("mlPolicy", {}), "numNodes", 1, "spec.mlPolicy")
    if len(spec.get("podGroupPolicy", {})) > 1:
        yield Problem("spec.podGroupPolicy", "names two schedulers", "keep coscheduling or volcano")
    yield from _node_pods(spec, "spec", False)


def _node_pods(spec: Object, path: str, patched: bool) -> Iterator[Problem]:
    """Check the pods. A TrainJob's trainer is the container `node` of the job `node`, and nothing else."""
    path = f"{path}.template.spec.replicatedJobs"
    for index, job in enumerate(spec.get("template", {}).get("spec", {}).get("replicatedJobs", [])):
        here = f"{path}[{index}]"
        yield from _one_of(job["name"], ("node",), f"{here}.name")
        template = job.get("template", {}).get("spec", {}).get("template", {})
        pod = template.get("spec", {})
        yield from _pod_metadata(template.get("metadata", {}), f"{here}.template.spec.template.metadata")
        here += ".template.spec.template.spec"
        yield from _pod(pod, here, "node", patched)
        for number, container in enumerate(pod.get("containers", [])):
            if patched and container["name"] == "node" and container.get("env"):
                hint = "spec.trainer.env is the place for them"
                yield Problem(f"{here}.containers[{number}].env", "is refused for the trainer", hint)


def _pod(pod: Object, path: str, container_name: str, patched: bool = False) -> Iterator[Problem]:
    containers = pod.get("containers", [])
    names = [container["name"] for container in containers]
    if container_name not in names:
        what = f"has no container called '{container_name}', which is the one that trains"
        where = f"{path}.containers[0].name" if names else f"{path}.containers"
        yield Problem(where, what, f"it has: {', '.join(names)}" if names else "")

    yield from _one_of(pod.get("restartPolicy"), POD_RESTART, f"{path}.restartPolicy")
    yield from _at_least(pod, "terminationGracePeriodSeconds", 1, path)
    yield from _labels(pod.get("nodeSelector", {}), f"{path}.nodeSelector")
    for index, toleration in enumerate(pod.get("tolerations", [])):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")

    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    for index, volume in enumerate(pod.get("volumes", [])):
        yield from _volume(volume, volumes, f"{path}.volumes[{index}]")

    first = pod.get("initContainers", [])
    for index, container in enumerate([*first, *containers]):
        place = f"initContainers[{index}]" if index < len(first) else f"containers[{index - len(first)}]"
        yield from _container(container, volumes, f"{path}.{place}", patched)
        if [*(entry["name"] for entry in first), *names].count(container["name"]) > 1:
            yield Problem(f"{path}.{place}.name", f"there are two containers '{container['name']}'")


def _container(container: Object, volumes: list[str], path: str, patched: bool) -> Iterator[Problem]:
    if not patched and not container.get("image"):
        yield Problem(f"{path}.image", "is required", "set launcher.k8s.image")
    if container.get("image") and (wrong := not_an_image(container["image"])) is not None:
        yield Problem(f"{path}.image", f"'{container['image']}' {wrong}", "set launcher.k8s.image")
    yield from _one_of(container.get("imagePullPolicy"), PULL, f"{path}.imagePullPolicy")
    yield from _env(container.get("env", []), f"{path}.env", ("RANK", "WORLD_SIZE", *RESERVED_ENV))
    yield from _resources(container.get("resources", {}), f"{path}.resources")

    paths = list[str]()
    for index, mount in enumerate(container.get("volumeMounts", [])):
        here = f"{path}.volumeMounts[{index}]"
        if mount["name"] not in volumes:
            what = f"there is no volume '{mount['name']}'"
            yield Problem(f"{here}.name", what, valid_values(mount["name"], volumes))
        if not mount["mountPath"].startswith("/") or ":" in mount["mountPath"]:
            yield Problem(f"{here}.mountPath", f"'{mount['mountPath']}' is not an absolute path without ':'")
        if mount["mountPath"] in paths:
            yield Problem(f"{here}.mountPath", f"'{mount['mountPath']}' is mounted twice")
        paths.append(mount["mountPath"])


def _volume(volume: Object, names: list[str], path: str) -> Iterator[Problem]:
    if len(volume) != 2:
        yield Problem(path, f"volume '{volume['name']}' must have one source, it has {len(volume) - 1}")
    if names.count(volume["name"]) > 1:
        yield Problem(f"{path}.name", f"there are two volumes '{volume['name']}'")
    claim = volume.get("persistentVolumeClaim", {}).get("claimName")
    if claim is not None and not _DNS_1123.fullmatch(claim):
        yield Problem(f"{path}.persistentVolumeClaim.claimName", f"'{claim}' is not a name")
    medium = volume.get("emptyDir", {}).get("medium", "")
    if not medium.startswith("HugePages"):
        yield from _one_of(medium, ("", "Memory", "HugePages"), f"{path}.emptyDir.medium")


def _toleration(toleration: Object, path: str) -> Iterator[Problem]:
    operator = toleration.get("operator", "Equal")
    yield from _one_of(operator, ("Exists", "Equal"), f"{path}.operator")
    yield from _one_of(toleration.get("effect"), EFFECTS, f"{path}.effect")
    if operator == "Exists" and toleration.get("value"):
        yield Problem(f"{path}.value", "must be empty where the operator is Exists")
    if operator == "Equal" and not toleration.get("key"):
        yield Problem(f"{path}.key", "is required where the operator is Equal")


def _env(env: list[Object], path: str, reserved: Collection[str]) -> Iterator[Problem]:
    names = list[str]()
    for index, variable in enumerate(env):
        name, here = variable["name"], f"{path}[{index}]"
        if not _ENV_NAME.fullmatch(name):
            yield Problem(f"{here}.name", f"'{name}' is not the name of a variable")
        if name in reserved:
            yield Problem(f"{here}.name", f"{name} is set by the operator", "choose another variable")
        if name in names:
            yield Problem(f"{here}.name", f"{name} is set twice")
        if "value" in variable and "valueFrom" in variable:
            yield Problem(here, f"{name} has a value and a reference")
        secret = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
        if secret is not None and not _DNS_1123.fullmatch(secret):
            yield Problem(f"{here}.valueFrom.secretKeyRef.name", f"'{secret}' is not a name")
        names.append(name)


def _resources(resources: Object, path: str) -> Iterator[Problem]:
    """Check that no request exceeds its limit, and that both are equal for devices and huge pages."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name in requests:
        whole = "/" in name or name.startswith("hugepages-")
        if name not in limits:
            if whole:
                what = f"{name}: request {requests[name]} without a limit"
                yield Problem(f"{path}.requests.{name}", what, "state the limit; it is the request, too")
            continue
        request, limit = amount(requests[name]), amount(limits[name])
        if request > limit:
            what = f"{name}: request {requests[name]} is more than limit {limits[name]}"
            yield Problem(f"{path}.requests.{name}", what, "request as much, or less")
        elif request < limit and whole:
            what = f"{name}: request {requests[name]} and limit {limits[name]} differ"
            yield Problem(f"{path}.requests.{name}", what, "devices and huge pages are not overcommitted")
