"""What the emulated API server holds: kinds of objects, the objects, and what it refuses to take."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.k8s.crds import Schema, rejections

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        return f"/apis/{self.group_version}" if self.group else f"/api/{self.version}"


RESOURCES = (
    Resource("", "v1", "pods", "Pod"),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "namespaces", "Namespace", namespaced=False),
    Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob"),
    Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"),
    Resource("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", False),
)
Key = tuple[str, str, str]  # plural, namespace ("" cluster-wide), name


class Refusal(Exception):
    """An answer that is a Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass
class Store:
    """All objects. `listeners` are told of each change, in its order."""

    schemas: dict[str, Schema]
    objects: dict[Key, Object] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    logs: dict[Key, Callable[[], str]] = field(default_factory=dict)
    listeners: list[Callable[[str, Key, Object], None]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    revision: int = 1

    def put(self, key: Key, body: Object) -> Object:
        """Create or replace, and tell the listeners."""
        with self.lock:
            self.revision += 1
            event = "MODIFIED" if key in self.objects else "ADDED"
            body["metadata"]["resourceVersion"] = str(self.revision)
            self.objects[key] = body
            for listener in [*self.listeners]:
                listener(event, key, body)
            return body

    def update(self, key: Key, change: Callable[[Object], None]) -> None:
        """Change an object that is still there."""
        with self.lock:
            if key in self.objects:
                body = json.loads(json.dumps(self.objects[key]))
                change(body)
                self.put(key, body)

    def remove(self, key: Key) -> Object | None:
        with self.lock:
            body = self.objects.pop(key, None)
            if body is not None:
                self.revision += 1
                for listener in [*self.listeners]:
                    listener("DELETED", key, body)
            return body

    def create(self, resource: Resource, namespace: str, body: Object, dry_run: bool = False) -> Object:
        name = body["metadata"]["name"]
        key = (resource.plural, namespace, name)
        full = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        with self.lock:
            if key in self.objects:
                raise Refusal(409, "AlreadyExists", f'{full} "{name}" already exists')
            body = {**body, "metadata": dict(body["metadata"])}
            if namespace:
                body["metadata"]["namespace"] = namespace
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            body["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now}
            return body if dry_run else self.put(key, body)


def locate(path: str) -> tuple[Resource, str, str, str]:
    """(resource, namespace, name, subresource) of a path of the API."""
    for resource in RESOURCES:
        if not path.startswith(resource.root + "/"):
            continue
        words = path.removeprefix(resource.root + "/").split("/")
        namespace = ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        if words[0] == resource.plural:
            name, sub, *_ = [*words[1:], "", ""]
            return resource, namespace, name, sub
    raise Refusal(404, "NotFound", "the server could not find the requested resource")


def refuse_invalid(schemas: dict[str, Schema], resource: Resource, body: Object, strict: bool) -> None:
    """As the API server words it: unknown fields are a bad request, wrong values invalid."""
    found = rejections(schemas, body)
    unknown = [(path, message) for path, message in found if "Additional properties" in message]
    if unknown and strict:
        names = ", ".join(f'unknown field "{path}": {message}' for path, message in unknown)
        raise Refusal(
            400, "BadRequest", f"{resource.kind} in version is invalid: strict decoding error: {names}"
        )
    wrong = [(path, message) for path, message in found if "Additional properties" not in message]
    if wrong:
        said = ", ".join(f"{path}: Invalid value: {message}" for path, message in wrong)
        name = body["metadata"].get("name")
        raise Refusal(422, "Invalid", f'{resource.kind}.{resource.group} "{name}" is invalid: {said}')


def merge(body: Any, patch: Any) -> Any:
    """JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(body) if isinstance(body, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result
