"""Galley's checks against the real CRDs, which are read from the shared folder."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.k8s.validation.checks import object_problems
from launchers.k8s.validation.fields import OBJECTS, Fields, Kind, ListOf, MapOf
from tests.integration.k8s.crds import Schema, load, rejections
from tests.unit.launchers.k8s.runs import Object, make_spec, objects, value_of

POD = "spec.pytorchReplicaSpecs.Master.template.spec"
CONTAINER = f"{POD}.containers[0]"
VOLUME = f"{POD}.volumes[0]"
NODE = "spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0]"
NODE_POD = f"{NODE}.template.spec.template.spec"
RUNTIME_POD = "spec.template.spec.replicatedJobs[0].template.spec.template.spec"
DROP = object()


@dataclass(frozen=True)
class Mutation:
    """One wrong manifest: `path` is set to `value`; the problem is expected at `at`, else at `path`."""

    kind: str
    path: str
    value: Any
    by_crd: bool
    at: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}={'nothing' if self.value is DROP else self.value!r:.40}"


def job(path: str, value: Any, by_crd: bool, at: str = "") -> Mutation:
    return Mutation("PyTorchJob", path, value, by_crd, at)


MUTATIONS = [
    # What the CRDs themselves reject: types, unknown and missing fields.
    job("spec.nprocPerNode", 2, True),
    job("spec.nprocPernode", "2", True),
    job("spec.pytorchReplicaSpecs", DROP, True),
    job("spec.pytorchReplicaSpecs.Master.replicas", "1", True),
    job("spec.pytorchReplicaSpecs.Master.replica", 1, True),
    job("spec.elasticPolicy.maxReplicas", "4", True),
    job("spec.elasticPolicy.minReplicas", 1.5, True),
    job("spec.runPolicy.backoffLimit", True, True),
    job("spec.runPolicy.cleanPodPolicy", False, True),
    job(f"{POD}.containers", DROP, True),
    job(f"{POD}.containers", {}, True),
    job(f"{POD}.nodeSelektor", {"a": "b"}, True),
    job(f"{POD}.nodeSelector", {"cores": 8}, True, f"{POD}.nodeSelector.cores"),
    job(f"{POD}.tolerations", [{"key": 1}], True, f"{POD}.tolerations[0].key"),
    job(f"{POD}.terminationGracePeriodSeconds", "30", True),
    job(
        f"{POD}.volumes[0].persistentVolumeClaim",
        {},
        True,
        f"{POD}.volumes[0].persistentVolumeClaim.claimName",
    ),
    job(f"{CONTAINER}.name", DROP, True),
    job(f"{CONTAINER}.env[0].value", 240, True),
    job(f"{CONTAINER}.env[0].value", True, True),
    job(f"{CONTAINER}.env[0].name", DROP, True),
    job(f"{CONTAINER}.command", "python3 -P", True),
    job(f"{CONTAINER}.command[1]", 3, True),
    job(f"{CONTAINER}.resources.limits.cpu", "4 cores", True),
    job(f"{CONTAINER}.resources.limits.memory", "128GB", True),
    job(f"{CONTAINER}.volumeMounts[0].mountPath", DROP, True),
    job(f"{CONTAINER}.securityContext.runAsUser", "1000", True),
    Mutation("TrainJob", "spec.runtimeRef", DROP, True),
    Mutation("TrainJob", "spec.runtimeRef.name", DROP, True),
    Mutation("TrainJob", "spec.trainer.numProcPerNode", "2", True),
    Mutation("TrainJob", "spec.trainer.nodes", 2, True),
    Mutation("TrainJob", "spec.trainer.command", ["x"] * 129, True),
    Mutation("TrainJob", "spec.trainer.env[0].value", 1, True),
    Mutation("TrainJob", "spec.elasticPolicy", {}, True),
    Mutation("TrainJob", "spec.activeDeadlineSeconds", 0, True),
    Mutation("TrainJob", "spec.runtimePatches[0].manager", DROP, True),
    Mutation("TrainJob", f"{NODE_POD}.schedulerName", "volcano", True),
    Mutation("TrainJob", f"{NODE_POD}.containers[0].image", "x", True),
    Mutation("ClusterTrainingRuntime", "spec.template.spec.replicatedJobs[0].template", DROP, True),
    Mutation("ClusterTrainingRuntime", "spec.mlPolicy.numNodes", "2", True),
    Mutation("ClusterTrainingRuntime", "spec.mlPolicy.torch.numProcPerNode", "auto", True),
    # What the CRDs let through, and the operators or the pods trip over.
    job(f"{POD}.initContainers", [{"name": "fetch"}], False, f"{POD}.initContainers[0].image"),
    job(f"{POD}.initContainers", [{"name": "pytorch", "image": "x"}], False, f"{POD}.initContainers[0].name"),
    job("spec.elasticPolicy.minReplicas", 5, False),
    job("spec.pytorchReplicaSpecs.Master.replicas", 2, False),
    job("spec.pytorchReplicaSpecs.Chief", "Worker", False),
    job("spec.pytorchReplicaSpecs.Worker.replicas", 0, False),
    job("spec.pytorchReplicaSpecs", {}, False),
    job("spec.pytorchReplicaSpecs.Master.restartPolicy", "Sometimes", False),
    job("spec.runPolicy.cleanPodPolicy", "Some", False),
    job("spec.runPolicy.schedulingPolicy.minAvailable", 9, False),
    job("spec.nprocPerNode", "two", False),
    job("spec.elasticPolicy.rdzvBackend", "zookeeper", False),
    job("metadata.name", "x" * 64, False),
    job("metadata.name", "1-starts-with-a-digit", False),
    job("metadata.name", "Upper", False),
    job("metadata.labels.queue", "not a label", False),
    job(f"{CONTAINER}.name", "trainer", False),
    job(f"{CONTAINER}.image", DROP, False),
    job(f"{CONTAINER}.imagePullPolicy", "Sometimes", False),
    job(f"{CONTAINER}.env[0].name", "A B", False),
    job(f"{CONTAINER}.env[0].name", "RANK", False),
    job(f"{CONTAINER}.env[1].name", "GALLEY_ATTEMPT", False),
    job(f"{CONTAINER}.resources.requests.cpu", "4001m", False),
    job(
        f"{CONTAINER}.resources", {"requests": {"a.b/c": "1"}}, False, f"{CONTAINER}.resources.requests.a.b/c"
    ),
    job(f"{CONTAINER}.volumeMounts[2].name", "dshm", False),
    job(f"{CONTAINER}.volumeMounts[1].mountPath", "/galley", False),
    job(f"{CONTAINER}.volumeMounts[1].mountPath", "etc", False),
    job(f"{POD}.volumes[2].emptyDir.medium", "RAM", False),
    job(f"{POD}.volumes[2].configMap", {"name": "x"}, False, f"{POD}.volumes[2]"),
    job(f"{POD}.volumes[1].name", "run", False),
    job(f"{POD}.tolerations", [{"operator": "Equal"}], False, f"{POD}.tolerations[0].key"),
    job(f"{POD}.tolerations", [{"key": "a", "effect": "No"}], False, f"{POD}.tolerations[0].effect"),
    job(f"{POD}.terminationGracePeriodSeconds", 0, False),
    Mutation("TrainJob", "metadata.name", "x.y", False),
    Mutation("TrainJob", "spec.runtimeRef.kind", "Runtime", False),
    Mutation("TrainJob", "spec.trainer.numNodes", 0, False),
    Mutation("TrainJob", "spec.trainer.env[0].name", "PET_NODE_RANK", False),
    Mutation("TrainJob", "spec.runtimePatches[0].manager", "galley", False),
    Mutation("TrainJob", f"{NODE_POD}.containers[0].env", [{"name": "A", "value": "b"}], False),
    Mutation("TrainJob", f"{NODE_POD}.containers[0].name", "trainer", False),
    Mutation("TrainJob", f"{NODE}.name", "launcher", False),
    Mutation("ClusterTrainingRuntime", f"{RUNTIME_POD}.containers[0].name", "trainer", False),
    Mutation("ClusterTrainingRuntime", "spec.template", DROP, False),
    Mutation("ClusterTrainingRuntime", "spec.podGroupPolicy.coscheduling", {}, False, "spec.podGroupPolicy"),
]


@pytest.fixture(scope="session")
def crds(shared_dir: Path) -> dict[str, Schema]:
    return load(shared_dir / "crds")


def good(kind: str) -> Object:
    k8s: dict[str, Any] = {"kind": "pytorchjob" if kind == "PyTorchJob" else "trainjob", "gang": "volcano"}
    if kind == "TrainJob":  # which patches a runtime that is there already
        k8s |= {"runtime": "torch-distributed", "gang": "none"}
    return next(body for body in objects(make_spec(k8s)) if body["kind"] == kind)


def mutate(mutation: Mutation) -> Object:
    body = copy.deepcopy(good(mutation.kind))
    if ".elasticPolicy" in mutation.path and mutation.kind == "PyTorchJob":
        k8s = {"min_nodes": 1, "max_nodes": 4}
        body = copy.deepcopy(objects(make_spec(k8s))[-1])
    *parents, last = mutation.path.replace("[", ".[").split(".")
    place = value_of(body, ".".join(parents).replace(".[", "[")) if parents else body
    key: Any = int(last[1:-1]) if last.startswith("[") else last
    if mutation.value is DROP:
        del place[key]
    elif key == "Chief":
        place[key] = place.pop(mutation.value)
    else:
        place[key] = mutation.value
    return body


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_wrong_manifest_is_refused_with_the_path(mutation: Mutation, crds: dict[str, Schema]) -> None:
    body = mutate(mutation)
    where = [problem.where for problem in object_problems(body)]
    assert f"{mutation.kind} {mutation.at or mutation.path}" in where
    assert bool(rejections(crds, body)) is mutation.by_crd


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob", "ClusterTrainingRuntime"])
def test_what_galley_writes_is_accepted_by_galley_and_by_the_crd(kind: str, crds: dict[str, Schema]) -> None:
    assert object_problems(good(kind)) == []
    assert rejections(crds, good(kind)) == []


@pytest.mark.parametrize("dropped", ["limits", "requests"])
def test_a_request_needs_no_limit_and_a_limit_no_request(dropped: str) -> None:
    assert list(object_problems(mutate(job(f"{CONTAINER}.resources.{dropped}", {}, False)))) == []


def test_a_config_map_holds_a_mebibyte_as_the_server_counts() -> None:
    """Bytes rather than characters, and binary data as they are rather than in base64."""
    body = objects(make_spec())[0]
    left = 1024**2 - sum(len(text.encode()) for text in body["data"].values())
    body["data"]["more"] = "é" * (left // 2)
    assert object_problems(body) == []
    body["binaryData"] = {"code": base64.b64encode(b"12").decode()}
    (problem,) = object_problems(body)
    assert (problem.where, problem.what) == (
        "ConfigMap data", f"the sealed run takes {1024**2 - left % 2 + 2} bytes, a ConfigMap holds 1048576"
    )  # fmt: skip


def test_every_problem_is_found_at_once() -> None:
    body = good("PyTorchJob")
    body["metadata"]["name"] = "A"
    body["spec"]["runPolicy"]["cleanPodPolicy"] = "Some"
    assert [problem.where for problem in object_problems(body)] == [
        "PyTorchJob metadata.name", "PyTorchJob spec.runPolicy.cleanPodPolicy"
    ]  # fmt: skip


def test_a_mistyped_field_is_guessed() -> None:
    body = good("PyTorchJob")
    body["spec"]["runPolicy"]["cleanPodPolicies"] = "All"
    assert "did you mean 'cleanPodPolicy'?" in object_problems(body)[0].hint


def test_an_object_of_another_kind_is_refused() -> None:
    assert object_problems({"apiVersion": "v1", "kind": "Pod"})[0].where == "kind"


@dataclass(frozen=True)
class Seen:
    path: str
    kind: Kind
    schema: Any


def walk(kind: Kind, schema: Any, path: str, unknown: Callable[[str], None]) -> Iterator[Seen]:
    """Galley's table and the CRD's schema, side by side."""
    yield Seen(path, kind, schema)
    if isinstance(kind, Fields):
        for name, part in kind.of.items():
            if path == "" and name in ("apiVersion", "kind", "metadata"):
                continue
            if name not in schema.get("properties", {}):
                unknown(f"{path}.{name}")
                continue
            yield from walk(part, schema["properties"][name], f"{path}.{name}", unknown)
    elif isinstance(kind, ListOf):
        yield from walk(kind.item, schema["items"], f"{path}[]", unknown)
    elif isinstance(kind, MapOf):
        yield from walk(kind.value, schema["additionalProperties"], f"{path}.*", unknown)


TYPES = {"string": "string", "integer": "integer", "boolean": "boolean"}


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob", "ClusterTrainingRuntime"])
def test_the_table_of_fields_is_a_part_of_the_crd(kind: str, crds: dict[str, Schema]) -> None:
    """Every field that Galley knows exists, has this type, and is required where the CRD says so."""
    fields = next(fields for (_, name), fields in OBJECTS.items() if name == kind)
    unknown = list[str]()
    seen = list(walk(fields, crds[kind], "", unknown.append))
    assert unknown == []
    for entry in seen:
        if isinstance(entry.kind, Fields):
            assert entry.schema["type"] == "object", entry.path
            assert set(entry.schema.get("required", ())) <= set(entry.kind.required), entry.path
        elif isinstance(entry.kind, ListOf):
            assert entry.schema["type"] == "array", entry.path
            longest = entry.schema.get("maxItems")
            assert longest is None or entry.kind.longest in (None, longest), entry.path
        elif isinstance(entry.kind, str) and entry.kind in TYPES:
            assert entry.schema["type"] == TYPES[entry.kind], entry.path
        elif entry.kind == "quantity":
            assert entry.schema.get("x-kubernetes-int-or-string"), entry.path


def test_the_published_pytorchjob_can_be_expressed(shared_dir: Path, crds: dict[str, Schema]) -> None:
    """Every setting of the source's manifest, from a recipe; its shell line is the recipe itself."""
    published = yaml.safe_load((shared_dir / "fixtures" / "pytorchjob.yaml").read_text())
    worker = published["spec"]["pytorchReplicaSpecs"]["Worker"]
    pod = worker["template"]["spec"]
    container = pod["containers"][0]
    elastic = published["spec"]["elasticPolicy"]
    theirs = {variable["name"]: variable["value"] for variable in container["env"]}
    spec = make_spec(
        {
            "name": published["metadata"]["name"],
            "image": "registry.example.org/transformers:latest",
            "image_pull_policy": container["imagePullPolicy"],
            "claim": "transformers-pvc",
            "mount_path": "/tmp/pvc-mount",  # noqa: S108
            "node_selector": pod["nodeSelector"],
            "min_nodes": elastic["minReplicas"],
            "max_nodes": elastic["maxReplicas"],
            "max_restarts": elastic["maxRestarts"],
        },
        {"cpus_per_node": 240, "memory_gib_per_node": 128},
        nodes=4,
        procs=1,
        env=theirs,
    )
    found = objects(spec)[-1]
    assert rejections(crds, found) == []
    assert found["metadata"]["name"].startswith(published["metadata"]["name"])
    assert found["spec"]["elasticPolicy"] == elastic
    ours = found["spec"]["pytorchReplicaSpecs"]["Worker"]
    for name in ("replicas", "restartPolicy"):
        assert ours[name] == worker[name]
    mine = ours["template"]["spec"]
    assert mine["nodeSelector"] == pod["nodeSelector"]
    assert sources(mine) == sources(pod)
    box = mine["containers"][0]
    assert (box["name"], box["imagePullPolicy"]) == (container["name"], container["imagePullPolicy"])
    limits = {name: str(amount) for name, amount in container["resources"]["limits"].items()}
    assert box["resources"] == {"limits": limits, "requests": limits}
    assert theirs.items() <= {v["name"]: v.get("value") for v in box["env"]}.items()


def sources(pod: Object) -> dict[str, Any]:
    """Where a pod mounts what, but for the sealed run, which the published job does not have."""
    volumes = {volume["name"]: {k: v for k, v in volume.items() if k != "name"} for volume in pod["volumes"]}
    mounts = pod["containers"][0]["volumeMounts"]
    found = {mount["mountPath"]: volumes[mount["name"]] for mount in mounts}
    return {path: volume for path, volume in found.items() if "projected" not in volume}
