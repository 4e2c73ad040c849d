"""The unmodified kubectl on Galley's manifests: the server validates by the real CRDs."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.k8s.launcher import MANIFEST
from tests.integration.k8s.api_server import ApiServer
from tests.support import Finished, run_process
from tests.unit.launchers.k8s.runs import make_spec, plan

NAMESPACE = "team-a"


def run_kubectl(*words: str | Path) -> Finished:
    return run_process(["kubectl", *words], timeout=60)


@pytest.fixture(params=["pytorchjob", "trainjob"])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / MANIFEST
    path.write_text(plan(make_spec({"kind": request.param}, env={"X": "1e5", "Y": "no"})).files[MANIFEST])
    return path


def last(manifest: Path) -> dict[str, Any]:
    return list(yaml.safe_load_all(manifest.read_text()))[-1]


def word(manifest: Path) -> str:
    body = last(manifest)
    return f"{body['kind'].lower()}/{body['metadata']['name']}"


def test_create_get_delete(api: ApiServer, manifest: Path) -> None:
    created = run_kubectl("create", "-f", manifest)
    assert created.rc == 0, created.err
    assert f"{last(manifest)['metadata']['name']} created" in created.out
    stored = yaml.safe_load(run_kubectl("get", word(manifest), "-o", "yaml").out)
    assert stored["spec"] == last(manifest)["spec"], "every value reached the server as it was written"
    assert run_kubectl("delete", "-f", manifest).rc == 0
    assert run_kubectl("get", word(manifest)).rc == 1
    assert [key for key in api.store.objects if key[1] == NAMESPACE] == []


def test_apply_twice_and_server_side_dry_run(api: ApiServer, manifest: Path) -> None:
    assert run_kubectl("create", "--dry-run=server", "-f", manifest).rc == 0
    assert api.store.objects == {}, "a dry run leaves nothing"
    assert "created" in run_kubectl("apply", "-f", manifest).out
    assert "unchanged" in run_kubectl("apply", "-f", manifest).out


def test_wait_sees_the_condition_by_watch(api: ApiServer, manifest: Path) -> None:
    run_kubectl("create", "-f", manifest)
    body = last(manifest)
    plural = body["kind"].lower() + "s"
    key = (plural, NAMESPACE, body["metadata"]["name"])
    done = {"type": "Succeeded", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "t"}

    def finish() -> None:
        time.sleep(1.0)
        api.store.update(key, lambda job: job.update(status={"conditions": [done]}))

    thread = threading.Thread(target=finish)
    thread.start()
    waited = run_kubectl("wait", "--for=condition=Succeeded", word(manifest), "--timeout=20s")
    thread.join()
    assert (waited.rc, "condition met" in waited.out) == (0, True), waited.err
    assert any("watch=true" in request for request in api.requests)


def test_watch_prints_changes(api: ApiServer, manifest: Path) -> None:
    run_kubectl("create", "-f", manifest)
    process = subprocess.Popen(
        ["kubectl", "get", word(manifest), "--watch", "--output=name"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert last(manifest)["metadata"]["name"] in process.stdout.readline()
        run_kubectl("label", word(manifest), "a=b")
        assert last(manifest)["metadata"]["name"] in process.stdout.readline()
    finally:
        process.kill()
        process.wait()


def test_already_exists(api: ApiServer, manifest: Path) -> None:
    run_kubectl("create", "-f", manifest)
    again = run_kubectl("create", "-f", manifest)
    assert again.rc == 1
    assert "(AlreadyExists)" in again.err


def test_forbidden(api: ApiServer, manifest: Path) -> None:
    api.store.forbidden.add(("create", f"{last(manifest)['kind'].lower()}s"))
    refused = run_kubectl("create", "-f", manifest)
    assert refused.rc == 1
    assert 'User "alice" cannot create resource' in refused.err


def test_the_server_rejects_what_the_crd_rejects(api: ApiServer, tmp_path: Path) -> None:
    """Also without Galley's own checks: unknown fields and wrong types never get in."""
    text = plan(make_spec()).files[MANIFEST]
    for wrong, said in (
        (text.replace('nprocPerNode: "2"', "nprocPerNode: 2"), "nprocPerNode: Invalid value"),
        (text.replace("cleanPodPolicy:", "cleanPods:"), "'cleanPods' was unexpected"),
    ):
        (tmp_path / "wrong.yaml").write_text(wrong)
        refused = run_kubectl("create", "-f", tmp_path / "wrong.yaml")
        assert refused.rc == 1
        assert said in refused.err
    assert api.objects("pytorchjobs") == []


def test_site_files_are_valid_kustomize(kubectl: str) -> None:
    """`kubectl kustomize` works offline; every object of k8s/ is in what it prints."""
    from tests.support import REPO

    built = run_kubectl("kustomize", REPO / "k8s")
    assert built.rc == 0, built.err
    found = {(body["kind"], body["metadata"]["name"]) for body in yaml.safe_load_all(built.out)}
    written = {
        (body["kind"], body["metadata"]["name"])
        for path in (REPO / "k8s").rglob("*.yaml")
        if path.name != "kustomization.yaml"
        for body in yaml.safe_load_all(path.read_text())
    }
    assert found == written
