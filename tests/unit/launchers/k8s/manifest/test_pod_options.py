"""What jobs ask of their pods, by keys and by a patch: as the operators get it and their CRDs take it."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from galley.config.rules.k8s import k8s_problems
from galley.errors import ConfigError
from launchers.k8s.validation.checks import object_problems
from launchers.k8s.validation.types import amount
from scripts.write_pod_fields import TARGET, pod_fields
from tests.integration.k8s.crds import Schema, load, rejections
from tests.unit.launchers.k8s.runs import Object, job_of, make_spec, objects, pod_of, value_of

NODE = "spec.template.spec.replicatedJobs[0].template.spec.template"
PATCHED = "spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0].template.spec.template"
SPREAD = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
AFFINITY: Object = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}
        ]
    }
}
FETCH = {
    "name": "fetch",
    "image": "amazon/aws-cli",
    "command": ["aws", "s3", "sync", "s3://b/d", "/galley/d"],
}


@pytest.fixture(scope="session")
def crds(shared_dir: Any) -> dict[str, Schema]:
    return load(shared_dir / "crds")


def template_of(kind: str, k8s: dict[str, Any], **arguments: Any) -> Object:
    """The pod template that the operator gets, with what a TrainJob says apart put back into it."""
    found = objects(make_spec({"kind": kind, **k8s}, **arguments))
    if kind == "pytorchjob":
        return dict(found[-1]["spec"]["pytorchReplicaSpecs"]["Master"]["template"])
    template: Object = value_of(found[1], NODE)
    trainer = found[-1]["spec"]["trainer"]
    node = next(c for c in template["spec"]["containers"] if c["name"] == "node")
    node |= {"env": trainer["env"], "resources": trainer["resourcesPerNode"], "image": trainer["image"]}
    return template


def trains(template: Object) -> Object:
    return next(c for c in template["spec"]["containers"] if c["name"] in ("pytorch", "node"))


# Options -> path in the pod template (`*` is the container that trains) -> what is there.
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"annotations": {"sidecar.istio.io/inject": "false"}},
        {"metadata.annotations": {"sidecar.istio.io/inject": "false"}},
    ),
    ({"labels": {"team": "nlp"}}, {"metadata.labels.team": "nlp"}),
    (
        {"resources": {"vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5Gi", "ephemeral-storage": "100Gi"}},
        {
            "*.resources.limits": {
                "cpu": "4",
                "vpc.amazonaws.com/efa": "4",
                "hugepages-2Mi": "5Gi",
                "ephemeral-storage": "100Gi",
            },
            "*.resources.requests": {
                "cpu": "4",
                "vpc.amazonaws.com/efa": "4",
                "hugepages-2Mi": "5Gi",
                "ephemeral-storage": "100Gi",
            },
        },
    ),
    (
        {"requests": {"cpu": 0.5}},
        {"*.resources.limits": {"cpu": "4"}, "*.resources.requests": {"cpu": "0.5"}},
    ),
    (
        {"requests": {"memory": "1Gi", "ephemeral-storage": "2Gi"}},
        {
            "*.resources.limits": {"cpu": "4"},
            "*.resources.requests": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "2Gi"},
        },
    ),
    (
        {
            "volumes": [
                {
                    "mountPath": "/data",
                    "subPath": "a",
                    "readOnly": True,
                    "persistentVolumeClaim": {"claimName": "d"},
                }
            ]
        },
        {
            "spec.volumes[3]": {"name": "volume-0", "persistentVolumeClaim": {"claimName": "d"}},
            "*.volumeMounts[3]": {"name": "volume-0", "mountPath": "/data", "subPath": "a", "readOnly": True},
        },
    ),
    (
        {"volumes": [{"name": "tmp", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "1Ti"}}]},
        {"spec.volumes[3]": {"name": "tmp", "emptyDir": {"sizeLimit": "1Ti"}}},
    ),
    (
        {"volumes": [{"mountPath": "/hp", "emptyDir": {"medium": "HugePages-2Mi"}}]},
        {"spec.volumes[3].emptyDir.medium": "HugePages-2Mi"},
    ),
    (
        {"volumes": [{"mountPath": "/dev/infiniband", "hostPath": {"path": "/dev/infiniband"}}]},
        {"spec.volumes[3].hostPath.path": "/dev/infiniband"},
    ),
    (
        {"volumes": [{"mountPath": "/keys", "secret": {"secretName": "k"}}]},
        {"spec.volumes[3].secret.secretName": "k"},
    ),
    (
        {"volumes": [{"mountPath": "/nfs", "nfs": {"server": "s", "path": "/"}}]},
        {"spec.volumes[3].nfs": {"server": "s", "path": "/"}},
    ),
    ({"sub_path": "ann"}, {"*.volumeMounts[0]": {"name": "run", "mountPath": "/galley", "subPath": "ann"}}),
    ({"affinity": AFFINITY}, {"spec.affinity": AFFINITY}),
    (
        {"topology_spread": [{**SPREAD, "labelSelector": {}}]},
        {"spec.topologySpreadConstraints": [{**SPREAD, "labelSelector": {}}]},
    ),
    ({"host_network": True}, {"spec.hostNetwork": True, "spec.dnsPolicy": "ClusterFirstWithHostNet"}),
    ({"host_network": True, "dns_policy": "Default"}, {"spec.dnsPolicy": "Default"}),
    (
        {"capabilities": ["IPC_LOCK"]},
        {"*.securityContext.capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}},
    ),
    (
        {"run_as_user": None, "run_as_group": None, "fs_group": None},
        {"spec.securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}},
    ),
    ({"env_from": [{"secretRef": {"name": "s"}}]}, {"*.envFrom": [{"secretRef": {"name": "s"}}]}),
    (
        {"init_containers": [FETCH]},
        {
            "spec.initContainers[0].image": "amazon/aws-cli",
            "spec.initContainers[0].volumeMounts[0].mountPath": "/galley",
        },
    ),
    (
        {"init_containers": [{"name": "own", "command": ["true"]}]},
        {"spec.initContainers[0].image": "galley:cpu"},
    ),
    ({"patch": {"spec": {"runtimeClassName": "nvidia"}}}, {"spec.runtimeClassName": "nvidia"}),
    (
        {"patch": {"spec": {"securityContext": {"fsGroup": None, "supplementalGroups": [7]}}}},
        {"spec.securityContext.supplementalGroups": [7], "spec.securityContext.runAsUser": 1000},
    ),
    (
        {"patch": {"metadata": {"annotations": {"a": "b"}}}, "annotations": {"c": "d"}},
        {"metadata.annotations": {"c": "d", "a": "b"}},
    ),
]


@pytest.mark.parametrize(("k8s", "expected"), OPTIONS, ids=lambda value: json.dumps(value)[:60])
@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_an_option_is_in_the_pods(
    kind: str, k8s: dict[str, Any], expected: dict[str, Any], crds: dict[str, Schema]
) -> None:
    template = template_of(kind, k8s)
    for path, value in expected.items():
        place = trains(template) if path.startswith("*.") else template
        assert value_of(place, path.removeprefix("*.")) == value
    for body in objects(make_spec({"kind": kind, **k8s})):
        assert rejections(crds, body) == []


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_pods_of_a_job_spread_over_zones(kind: str) -> None:
    """A user cannot know the name that the selector needs."""
    template = template_of(kind, {"topology_spread": [SPREAD], "labels": {"team": "nlp"}})
    (entry,) = template["spec"]["topologySpreadConstraints"]
    selected = entry["labelSelector"]["matchLabels"]
    assert selected.items() <= template["metadata"]["labels"].items()
    assert selected["app.kubernetes.io/instance"].startswith("quickstart-ddp-0123abcd-")


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_a_patch_reaches_the_container_that_trains(kind: str, crds: dict[str, Schema]) -> None:
    name = {"pytorchjob": "pytorch", "trainjob": "node"}[kind]
    ours = {
        "name": name,
        "image": "patched:1",
        "env": [{"name": "X", "value": "1"}],
        "resources": {"limits": {"cpu": "8"}, "requests": {"cpu": "8"}},
        "lifecycle": {"preStop": {"exec": {"command": ["sync"]}}},
    }
    k8s = {"patch": {"spec": {"containers": [ours, {"name": "proxy", "image": "envoy"}]}}}
    template = template_of(kind, k8s)
    found = trains(template)
    assert (found["image"], found["lifecycle"]) == ("patched:1", ours["lifecycle"])
    assert found["resources"] == ours["resources"]
    assert {"name": "X", "value": "1"} in found["env"]
    assert any(entry["name"] == "PYTHONPATH" for entry in found["env"]), "the others stay"
    assert [c["name"] for c in template["spec"]["containers"]] == [name, "proxy"]
    for body in objects(make_spec({"kind": kind, **k8s})):
        assert rejections(crds, body) == []


def test_a_runtime_that_is_there_is_patched_as_far_as_kubeflow_lets(crds: dict[str, Schema]) -> None:
    runtime = {"kind": "trainjob", "runtime": "torch-distributed"}
    k8s = {**runtime, "affinity": AFFINITY, "annotations": {"a": "b"}, "resources": {"rdma/hca": 1}}
    job = job_of(make_spec(k8s))
    assert rejections(crds, job) == []
    assert value_of(job, f"{PATCHED}.spec.affinity") == AFFINITY
    assert value_of(job, f"{PATCHED}.metadata.annotations") == {"a": "b"}
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["rdma/hca"] == "1"
    with pytest.raises(ConfigError) as error:
        job_of(make_spec({**runtime, "patch": {"spec": {"runtimeClassName": "nvidia"}}}))
    (problem,) = error.value.problems
    assert problem.where.endswith("template.spec.runtimeClassName")
    assert problem.what == "is not a field here"
    assert problem.hint.endswith("see launcher.k8s.patch")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"resources": {"cpu": 4}}, "launcher.k8s.resources.cpu", "set cluster.cpus_per_node=N"),
    ({"resources": {"memory": "4Gi"}}, "launcher.k8s.resources.memory", "set cluster.memory_gib_per_node=N"),
    ({"resources": {"nvidia.com/gpu": 1}}, "launcher.k8s.resources.nvidia.com/gpu", "cluster.gpus_per_node"),
    ({"resources": {"efa": 1}}, "launcher.k8s.resources.efa", "vpc.amazonaws.com/efa"),
    ({"resources": {"a.b/c": "much"}}, "a.b/c", "see launcher.k8s.resources"),
    ({"requests": {"disk": "1Gi"}}, "launcher.k8s.requests.disk", "valid: cpu, memory, ephemeral-storage"),
    ({"requests": {"hugepages-2Mi": "1Gi"}}, "launcher.k8s.requests.hugepages-2Mi", "valid: cpu, memory"),
    ({"requests": {"cpu": 5}}, "requests.cpu", "see launcher.k8s.requests"),
    ({"resources": {"a.b/c": 2}, "requests": {"a.b/c": 1}}, "requests.a.b/c", "see launcher.k8s.resources"),
    ({"volumes": [{"emptyDir": {}}]}, "launcher.k8s.volumes", "mountPath"),
    ({"volumes": [{"mountPath": "/a"}]}, "volumes[3]", "see launcher.k8s.volumes"),
    ({"volumes": [{"mountPath": "/a", "emptyDirr": {}}]}, "volumes[3].emptyDirr", "did you mean 'emptyDir'?"),
    ({"volumes": [{"mountPath": "/galley", "emptyDir": {}}]}, "mountPath", "see launcher.k8s.volumes"),
    (
        {"volumes": [{"mountPath": "/a", "name": "run", "emptyDir": {}}]},
        "launcher.k8s.volumes",
        "another name",
    ),
    ({"affinity": {"nodeAfinity": {}}}, "affinity.nodeAfinity", "see launcher.k8s.affinity"),
    ({"topology_spread": [{"topologyKey": "z"}]}, "[0].maxSkew", "see launcher.k8s.topology_spread"),
    (
        {"labels": {"app.kubernetes.io/instance": "x"}},
        "launcher.k8s.labels.app.kubernetes.io/instance",
        "another label",
    ),
    (
        {"labels": {"training.kubeflow.org/x": "x"}},
        "launcher.k8s.labels.training.kubeflow.org/x",
        "another label",
    ),
    ({"labels": {"a": "b c"}}, "labels.a", "see launcher.k8s.labels"),
    ({"annotations": {"a b": "c"}}, "annotations.a b", "see launcher.k8s.annotations"),
    ({"capabilities": ["CAP_IPC_LOCK"]}, "launcher.k8s.capabilities", "without CAP_"),
    ({"env_from": [{"secretRf": {}}]}, "envFrom[0].secretRf", "did you mean 'secretRef'?"),
    ({"init_containers": [{"command": ["x"]}]}, "initContainers[0].name", "see launcher.k8s.init_containers"),
    ({"patch": {"specs": {}}}, "template.specs", "did you mean 'spec'?"),
    ({"patch": {"spec": {"runtimeClasName": "x"}}}, "spec.runtimeClasName", "see launcher.k8s.patch"),
    (
        {"patch": {"spec": {"shareProcessNamespace": "yes"}}},
        "spec.shareProcessNamespace",
        "see launcher.k8s.patch",
    ),
    ({"patch": {"spec": {"restartPolicy": "Always"}}}, "launcher.k8s.patch", "launcher.k8s.max_restarts"),
    (
        {"patch": {"spec": {"containers": [{"name": "pytorch", "args": ["x"]}]}}},
        "launcher.k8s.patch",
        "launcher.k8s.python",
    ),
    (
        {"patch": {"spec": {"containers": [{"name": "pytorch", "$patch": "delete"}]}}},
        "launcher.k8s.patch",
        "leave $patch out",
    ),
    ({"patch": {"spec": {"containers": [{"name": "node"}]}}}, "containers[1].image", "launcher.k8s.patch"),
    (
        {"patch": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}},
        "launcher.k8s.patch",
        "another label",
    ),
    ({"patch": {"spec": None}}, "launcher.k8s.patch", "{spec: {"),
    ({"patch": {"spec": {"containers": None}}}, "launcher.k8s.patch", "a list"),
    ({"patch": {"spec": {"$patch": "replace"}}}, "launcher.k8s.patch", "leave $patch out"),
    ({"patch": {"spec": {"volumes": "x"}}}, "template.spec.volumes", "see launcher.k8s.patch"),
]


@pytest.mark.parametrize(("k8s", "where", "hint"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_what_no_pod_can_be_is_refused_by_the_plan(k8s: dict[str, Any], where: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        job_of(make_spec(k8s))
    found = [problem for problem in error.value.problems if problem.where.endswith(where)]
    assert found, error.value
    assert hint in found[0].hint


def test_the_defaults_break_no_rule() -> None:
    assert list(k8s_problems(make_spec().recipe)) == []


def test_the_fields_of_a_pod_are_those_of_the_crd(shared_dir: Any) -> None:
    """All of them: a patch may set any."""
    (crd,) = (shared_dir / "crds").glob("kubeflow.org_pytorchjobs*.yaml")
    assert json.loads(TARGET.read_text()) == pod_fields(crd)


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("4", 4),
        (4, 4),
        ("500m", Fraction(1, 2)),
        ("0.5", Fraction(1, 2)),
        ("1Ki", 1024),
        ("2Gi", 2**31),
        ("1k", 1000),
        ("3M", 3_000_000),
        ("1e3", 1000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("5u", Fraction(5, 10**6)),
    ],
)
def test_quantities_are_numbers(quantity: str | int, number: int | Fraction) -> None:
    assert amount(quantity) == number


def test_a_pod_without_options_is_what_it_was() -> None:
    pod = pod_of(job_of(make_spec()))
    assert sorted(pod) == ["containers", "securityContext", "terminationGracePeriodSeconds", "volumes"]
    assert object_problems(job_of(make_spec())) == []
