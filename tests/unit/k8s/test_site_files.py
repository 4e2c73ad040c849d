"""k8s/: what a site installs agrees with what `launcher=k8s` asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.schema import K8s
from launchers.k8s.checks import object_problems
from launchers.k8s.launcher import MANIFEST
from tests.integration.k8s.crds import load, rejections
from tests.support import REPO, require_program, run_process
from tests.unit.k8s.runs import make_spec, plan

SITE = REPO / "k8s"


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((SITE / name).read_text()))


def test_the_images_run_as_the_user_of_the_pods() -> None:
    text = (SITE / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    assert stages == ["base", "cpu", "cuda"]
    user = f"{K8s().run_as_user}:{K8s().run_as_group}"
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == [user, user]
    assert K8s().image == "galley:cpu"


def test_the_claim_is_the_default_one() -> None:
    (claim,) = objects("pvc.yaml")
    assert claim["metadata"]["name"] == K8s().claim
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_runtimes_are_valid(name: str, shared_dir: Path) -> None:
    (runtime,) = objects(f"runtimes/{name}.yaml")
    assert object_problems(runtime) == []
    assert rejections(load(shared_dir / "crds"), runtime) == []
    assert runtime["metadata"]["name"] == f"galley-{name}"


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_the_role_allows_what_is_created_and_no_more(kind: str) -> None:
    rules = [rule for body in objects("rbac.yaml") for rule in body.get("rules", [])]
    allowed = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    for body in yaml.safe_load_all(plan(make_spec({"kind": kind})).files[MANIFEST]):
        group = body["apiVersion"].rpartition("/")[0]
        assert {"create", "get", "delete"} <= allowed[group, body["kind"].lower() + "s"]
    assert {"get", "list"} <= allowed["", "pods/log"] | allowed["", "pods"]
    assert all("*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"]) for rule in rules)
    assert not any("secrets" in rule["resources"] for rule in rules), "secrets are references"


def test_kustomize_puts_all_of_it_together() -> None:
    """By the real kubectl, which needs no cluster for it."""
    kubectl = require_program("kubectl", "the check of k8s/kustomization.yaml")
    done = run_process([kubectl, "kustomize", SITE])
    assert done.rc == 0, done.err
    made = {(body["kind"], body["metadata"]["name"]) for body in yaml.safe_load_all(done.out)}
    files = [file.relative_to(SITE).as_posix() for file in SITE.rglob("*.yaml")]
    ours = [body for name in files if name != "kustomization.yaml" for body in objects(name)]
    assert made == {(body["kind"], body["metadata"]["name"]) for body in ours}
