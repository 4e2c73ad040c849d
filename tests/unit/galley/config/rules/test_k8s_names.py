"""Names that Kubernetes, an operator or a registry would refuse, refused by the key that gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from galley.config.rules.k8s_names import k8s_name_problems
from galley.config.rules.recipe import recipe_problems
from galley.schema import Batch
from tests.unit.launchers.k8s.runs import job_of, make_spec


def told(k8s: dict[str, Any], nodes: int = 1) -> list[str]:
    return [problem.where for problem in k8s_name_problems(make_spec(k8s, nodes=nodes).recipe)]


# 63 characters, less `-99` for the attempt and what the operator puts behind it for a pod.
@pytest.mark.parametrize(
    ("k8s", "nodes", "longest"),
    [
        ({}, 1, 63 - 3 - len("-master-0")),
        ({}, 2, 51),
        ({}, 12, 63 - 3 - len("-worker-10")),
        ({"max_nodes": 101}, 1, 63 - 3 - len("-worker-100")),
        ({"kind": "trainjob"}, 1, 63 - 3 - len("-node-0-0-abcde")),
        ({"kind": "trainjob"}, 11, 63 - 3 - len("-node-0-10-abcde")),
    ],
)
def test_a_name_leaves_room_for_what_the_operator_makes_of_it(
    k8s: dict[str, Any], nodes: int, longest: int
) -> None:
    assert told({**k8s, "name": "x" * longest}, nodes) == []
    spec = make_spec({**k8s, "name": "x" * (longest + 1)}, nodes=nodes)
    (problem,) = k8s_name_problems(spec.recipe)
    assert problem.where == "launcher.k8s.name"
    assert f"has {longest + 1} characters" in problem.what
    assert problem.hint == f"at most {longest}"


def test_the_longest_name_is_sent_as_it_is() -> None:
    assert job_of(make_spec({"name": "x" * 51}), attempt=99)["metadata"]["name"] == "x" * 51 + "-99"


NAMES = ["Upper", "under_score", "-start", "end-", "two words", "", "a..b", "http://x", "é"]


@pytest.mark.parametrize("wrong", [*NAMES, "x" * 254])
@pytest.mark.parametrize(
    "key",
    ["service_account", "priority_class", "scheduler", "secret", "claim", "runtime", "image_pull_secrets"],
)
def test_names_of_objects(key: str, wrong: str) -> None:
    kind = {"kind": "trainjob"} if key == "runtime" else {}
    given = [wrong] if key == "image_pull_secrets" else wrong
    assert told({**kind, key: given}) == [f"launcher.k8s.{key}"]
    fine = ["a.b-c", "0"] if key == "image_pull_secrets" else "a.b-c"
    assert told({**kind, key: fine}) == []


@pytest.mark.parametrize("key", ["namespace", "queue"])
@pytest.mark.parametrize("wrong", [*NAMES, "a.b", "x" * 64])
def test_names_that_become_a_label(key: str, wrong: str) -> None:
    assert told({key: wrong}) == [f"launcher.k8s.{key}"]
    assert told({key: "team-a"}) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "https://registry.example.org/galley:cpu", "Galley:cpu", "registry.example.org/Team/galley",
        "registry.example.org:65536/galley", "registry.example.org:port/galley", "galley:", "galley:a b",
        "galley@sha256:12", "/galley", "galley/", "<image name>:<tag>", "",
    ],
)  # fmt: skip
def test_references_of_images(wrong: str) -> None:
    assert told({"image": wrong}) == ["launcher.k8s.image"]


@pytest.mark.parametrize(
    "image",
    [
        "galley", "galley:cpu", "localhost:5000/galley", "registry.example.org:65535/a/b__c/d.e:V1_x",
        "REGISTRY.example.org/galley", f"galley@sha256:{'0' * 64}", f"a/b:1@sha256:{'f' * 64}",
    ],
)  # fmt: skip
def test_references_that_a_registry_takes(image: str) -> None:
    assert told({"image": image}) == []


@pytest.mark.parametrize(
    "wrong", ["cpu", "memory", "pods", "kubernetes.io/batch-cpu", "a.kubernetes.io/gpu", "A/gpu", "a/"]
)
def test_a_gpu_is_counted_by_a_resource_of_its_own(wrong: str) -> None:
    """`cpu` would overwrite what the pod asks for itself."""
    assert told({"gpu_resource": wrong}) == ["launcher.k8s.gpu_resource"]
    for right in ("nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb"):
        assert told({"gpu_resource": right}) == []


def test_rules_of_kubernetes_are_for_kubernetes() -> None:
    found = replace(make_spec({"image": "Wrong"}).recipe, batch=Batch(micro_size=8))
    assert [problem.where for problem in recipe_problems(found)] == ["launcher.k8s.image"]
    here = replace(found, launcher=replace(found.launcher, kind="local"))
    assert [problem for problem in recipe_problems(here) if "k8s" in problem.where] == []
