"""The cluster through the Kubernetes client for Python, if kubectl is missing.

Only this module imports that client, which needs the optional extra `k8s`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from galley.errors import SubmissionError
from launchers.k8s.clients.base import TIMEOUT_S, Client, KubeContext, Object
from launchers.k8s.manifest.yaml_text import from_yaml

T = TypeVar("T")

_MISSING = (
    "kubectl is not on PATH, and the Kubernetes client for Python is not installed: install one "
    "(`pip install 'galley[k8s]'`)"
)
# Kind -> the resource's name in the paths of the API.
_PLURALS = {
    "ConfigMap": "configmaps",
    "PyTorchJob": "pytorchjobs",
    "TrainJob": "trainjobs",
    "ClusterTrainingRuntime": "clustertrainingruntimes",
}
_CLUSTER_WIDE = frozenset({"clustertrainingruntimes"})
_VERSIONS = {"kubeflow.org": "v1", "trainer.kubeflow.org": "v1alpha1"}


class Refused(Exception):
    """An answer of the server that reports no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class PythonClient(Client):
    """Sends objects as they are in the manifest, by the paths of the API."""

    def __init__(self, place: KubeContext) -> None:
        try:
            import kubernetes
        except ImportError as error:
            raise SubmissionError(_MISSING) from error
        super().__init__(place)
        self._module = kubernetes
        self._api: Any = None

    def current(self) -> KubeContext:
        config = self._module.config
        try:
            contexts, active = config.list_kube_config_contexts(_config_file())
        except config.ConfigException:
            return self.place
        chosen = next((c for c in contexts if c["name"] == self.place.context), active)
        namespace = chosen["context"].get("namespace", "default")
        return KubeContext(chosen["name"], self.place.namespace or namespace)

    def create(self, argv: Sequence[str], files: Sequence[Path]) -> None:
        """Create objects in their order. If one is refused, those created before are deleted again."""
        created: list[tuple[str, str]] = []
        for body in _objects(files):
            path, name = self._path(body), body["metadata"]["name"]
            try:
                self._call("POST", path, body, [("fieldValidation", "Strict")])
            except SubmissionError:
                for earlier, other in reversed(created):
                    self._call("DELETE", f"{earlier}/{other}")
                raise
            created.append((path, name))

    def get(self, resource: str, name: str) -> Object | None:
        plural, _, group = resource.partition(".")
        path = self._resource_path(f"{group}/{_VERSIONS[group]}", plural, None)
        return self._or_none(lambda: self._call("GET", f"{path}/{name}"))

    def pods(self, selector: str) -> list[Object]:
        path = self._resource_path("v1", "pods", None)
        return list(self._call("GET", path, None, [("labelSelector", selector)])["items"])

    def logs(self, pod: str, container: str) -> str:
        path = f"{self._resource_path('v1', 'pods', None)}/{pod}/log"
        try:
            return self._ask("GET", path, None, [("container", container)]).decode(errors="replace")
        except SubmissionError as error:
            if "is waiting to start" in str(error):
                return ""
            raise

    def delete(self, files: Sequence[Path]) -> None:
        for body in _objects(files):
            path = f"{self._path(body)}/{body['metadata']['name']}"
            self._or_none(lambda path=path: self._call("DELETE", path))  # type: ignore[misc]

    def _path(self, body: Object) -> str:
        namespace = body["metadata"].get("namespace")
        return self._resource_path(body["apiVersion"], _PLURALS[body["kind"]], namespace)

    def _resource_path(self, version: str, plural: str, namespace: str | None) -> str:
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if plural in _CLUSTER_WIDE:
            return f"{root}/{plural}"
        return f"{root}/namespaces/{namespace or self.current().namespace or 'default'}/{plural}"

    def _or_none(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except SubmissionError as error:
            if isinstance(error.__cause__, Refused) and error.__cause__.status == 404:
                return None
            raise

    def _call(
        self, method: str, path: str, body: Object | None = None, query: Sequence[tuple[str, str]] = ()
    ) -> Any:
        return json.loads(self._ask(method, path, body, query))

    def _ask(
        self, method: str, path: str, body: Object | None = None, query: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """Return the raw answer. Raises `SubmissionError`, whose cause is `Refused` with the HTTP status."""
        api = self._connect()
        request = api.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Content-Type": "application/json", "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = api.call_api(*request, _request_timeout=TIMEOUT_S)
            content: bytes = answer.read()
        except Exception as error:  # the process boundary: TLS, HTTP, sockets
            raise SubmissionError(f"{method} {path}: the server cannot be reached: {error}") from error
        if answer.status >= 300:
            raise SubmissionError(f"{method} {path}: {_reason(content)}") from Refused(answer.status)
        return content

    def _connect(self) -> Any:
        config = self._module.config
        if self._api is None:
            try:
                self._api = config.new_client_from_config(_config_file(), self.place.context or None)
            except config.ConfigException as error:
                if self.place.context:
                    raise SubmissionError(f"no cluster to talk to: {error}") from error
                self._api = self._in_cluster()
        return self._api

    def _in_cluster(self) -> Any:
        """Connect by the service account of the pod in which this process runs."""
        config: Any = self._module.config
        settings = self._module.client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise SubmissionError(f"no cluster: neither a kubeconfig nor a pod: {error}") from error
        return self._module.client.ApiClient(settings)


def _config_file() -> str | None:
    """Return KUBECONFIG as it is now: the library reads the variable only once, at import."""
    return os.environ.get("KUBECONFIG")


def _objects(files: Sequence[Path]) -> Iterator[Object]:
    for path in files:
        yield from from_yaml(path.read_text(encoding="utf-8"))


def _reason(content: bytes) -> str:
    """Return the message of the server's Status object, or its answer as it is."""
    try:
        status = json.loads(content)
        return f"{status['reason']}: {status['message']}"
    except (TypeError, ValueError, KeyError):
        return content.decode(errors="replace")
