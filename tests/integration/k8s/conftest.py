"""The emulated cluster, as kubectl and Galley see it: by KUBECONFIG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.k8s.api_server import ApiServer
from tests.integration.k8s.cluster import Cluster
from tests.integration.k8s.crds import Schema, load
from tests.support import free_port, require_program

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: emulator, cluster: {{server: "{url}"}}}}]
users: [{{name: alice, user: {{}}}}]
contexts: [{{name: lab, context: {{cluster: emulator, user: alice, namespace: team-a}}}}]
current-context: lab
"""


@pytest.fixture(scope="session")
def kubectl() -> str:
    return require_program("kubectl", "the tests of launcher=k8s")


@pytest.fixture(scope="session")
def crds(shared_dir: Path) -> dict[str, Schema]:
    return load(shared_dir / "crds")


@pytest.fixture
def api(
    crds: dict[str, Schema], kubectl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiServer]:
    """A server, and an environment in which kubectl talks to it."""
    server = ApiServer(crds)
    use(server.url, tmp_path, monkeypatch)
    yield server
    server.close()


def use(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder / "kubeconfig"
    config.write_text(CONFIG.format(url=url))
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setenv("KUBECACHEDIR", str(folder / "kubecache"))


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """The server with operators and a kubelet behind it; its claim is `tmp_path/claim`."""
    claim = tmp_path / "claim"
    claim.mkdir()
    cluster = Cluster(api, tmp_path / "pods", claim, free_port())
    yield cluster
    cluster.close()
