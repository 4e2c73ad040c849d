"""Both clients on the same server: what a launcher needs of a cluster, and every refusal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from galley.errors import SubmissionError
from launchers.k8s.clients.base import Client, KubeContext
from launchers.k8s.clients.connect import make_client
from launchers.k8s.clients.kubectl import Kubectl
from launchers.k8s.clients.pyclient import PythonClient
from launchers.k8s.launcher import MANIFEST
from tests.integration.k8s.api_server import ApiServer
from tests.integration.k8s.conftest import use
from tests.support import free_port
from tests.unit.launchers.k8s.runs import make_spec, plan

JOB = ("pytorchjobs.kubeflow.org", "tiny-1")
CREATE = ["kubectl", "create", "-f"]


@pytest.fixture(params=[Kubectl, PythonClient])
def kind(request: pytest.FixtureRequest) -> type[Client]:
    found: type[Client] = request.param
    return found


@pytest.fixture
def client(api: ApiServer, kind: type[Client]) -> Client:
    return kind(KubeContext())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / MANIFEST
    path.write_text(plan(make_spec({"name": "tiny"})).files[MANIFEST])
    return path


def create(client: Client, manifest: Path) -> None:
    client.create([*CREATE, str(manifest)], [manifest])


def test_the_place_is_that_of_the_kubeconfig(client: Client, kind: type[Client]) -> None:
    assert client.current() == KubeContext("lab", "team-a")
    assert kind(KubeContext("", "team-b")).current() == KubeContext("lab", "team-b")


def test_objects_come_and_go(client: Client, api: ApiServer, manifest: Path) -> None:
    assert client.get(*JOB) is None
    create(client, manifest)
    found = client.get(*JOB)
    assert found is not None
    assert found["metadata"]["namespace"] == "team-a"
    client.delete([manifest])
    assert client.get(*JOB) is None
    client.delete([manifest])
    assert api.store.objects == {}


def test_a_cluster_wide_runtime_comes_and_goes(client: Client, api: ApiServer, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_text(plan(make_spec({"name": "tiny", "kind": "trainjob"})).files[MANIFEST])
    create(client, path)
    assert ("clustertrainingruntimes", "", "tiny-1") in api.store.objects
    client.delete([path])
    assert api.store.objects == {}


def test_pods_and_their_logs(client: Client, api: ApiServer) -> None:
    for name, job in (("a", "mine"), ("b", "other")):
        metadata = {"name": name, "namespace": "team-a", "labels": {"job": job}}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {}}
        body["spec"] = {"containers": [{"name": "x"}]}
        api.store.put(("pods", "team-a", name), body)
    assert [pod["metadata"]["name"] for pod in client.pods("job=mine")] == ["a"]
    assert client.logs("a", "x") == "", "a pod that has not started has said nothing"
    api.store.logs["pods", "team-a", "a"] = lambda: "é\n{}\n"
    assert client.logs("a", "x") == "é\n{}\n"
    with pytest.raises(SubmissionError, match="container proxy is not valid for pod a"):
        client.logs("a", "proxy")


def test_already_exists(client: Client, manifest: Path) -> None:
    create(client, manifest)
    with pytest.raises(SubmissionError, match='"tiny-1" already exists'):
        create(client, manifest)


def test_forbidden(client: Client, api: ApiServer, manifest: Path) -> None:
    api.store.forbidden.add(("create", "pytorchjobs"))
    with pytest.raises(SubmissionError, match='User "alice" cannot create resource "pytorchjobs"'):
        create(client, manifest)


def test_invalid(client: Client, manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("cleanPodPolicy", "cleanPods"))
    with pytest.raises(SubmissionError, match="cleanPods"):
        create(client, manifest)


def test_unreachable(
    kind: type[Client], tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, kubectl: str
) -> None:
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)
    for act in (lambda c: create(c, manifest), lambda c: c.get(*JOB), lambda c: c.pods("a=b")):
        with pytest.raises(SubmissionError, match=r"refused|reached|Max retries"):
            act(kind(KubeContext()))


def test_without_kubectl_the_python_client_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(make_client(KubeContext()), Kubectl)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("kubectl") is None
    assert isinstance(make_client(KubeContext()), PythonClient)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(SubmissionError, match=r"galley\[k8s\]"):
        make_client(KubeContext())
