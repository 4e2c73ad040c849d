"""An emulator of the Kubernetes API, for the unmodified kubectl and the Kubernetes client.

Objects are held in memory and checked by the real CRDs. Verbs: create, get, list, watch, patch
(merge), delete, the logs of pods; dry runs and strict field validation; refusals on demand. No
authentication, no admission, no garbage collection: `cluster.py` plays the operators.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
VERBS = ["create", "delete", "get", "list", "patch", "watch"]
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


class ApiServer:
    """The emulator on a port of its own of the loopback interface."""

    def __init__(self, schemas: dict[str, Schema]) -> None:
        self.store = Store(schemas)
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def objects(self, plural: str) -> list[Object]:
        with self.store.lock:
            return [body for key, body in self.store.objects.items() if key[0] == plural]


class _Handler(BaseHTTPRequestHandler):
    server_of: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.server_of.requests.append(f"{self.command} {self.path}")

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        size = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(size)) if size else None
        try:
            found = discovery(url.path)
            if found is not None:
                self._send(200, found)
            else:
                self._object(url.path)
        except Refusal as refusal:
            self._send(refusal.code, refusal.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _object(self, path: str) -> None:
        resource, namespace, name, sub = locate(path)
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(self.command, "get")
        if (verb, resource.plural) in self.server_of.store.forbidden:
            where = f' in the namespace "{namespace}"' if namespace else ""
            raise Refusal(
                403,
                "Forbidden",
                f'{resource.plural}.{resource.group} is forbidden: User "alice" cannot {verb} resource '
                f'"{resource.plural}" in API group "{resource.group}"{where}',
            )
        if verb == "create":
            self._create(resource, namespace)
        elif not name:
            self._list(resource, namespace)
        else:
            self._one(resource, (resource.plural, namespace, name), sub)

    def _create(self, resource: Resource, namespace: str) -> None:
        assert self.body is not None
        strict = self.query.get("fieldValidation", "Strict") == "Strict"
        refuse_invalid(self.server_of.store.schemas, resource, self.body, strict)
        dry_run = self.query.get("dryRun") == "All"
        self._send(201, self.server_of.store.create(resource, namespace, self.body, dry_run))

    def _one(self, resource: Resource, key: Key, sub: str) -> None:
        store = self.server_of.store
        body = store.objects.get(key)
        if body is None:
            full = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
            raise Refusal(404, "NotFound", f'{full} "{key[2]}" not found')
        if sub == "log":
            self._log(key, body)
        elif self.command == "PATCH":
            assert self.body is not None
            patched = merge(body, self.body)
            refuse_invalid(store.schemas, resource, patched, strict=True)
            self._send(200, store.put(key, patched))
        elif self.command == "DELETE":
            store.remove(key)
            self._send(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        else:
            self._send(200, body)

    def _list(self, resource: Resource, namespace: str) -> None:
        store = self.server_of.store
        if self.query.get("watch") in ("true", "1"):
            self._watch(resource, namespace)
            return
        with store.lock:
            items = [
                body for key, body in store.objects.items() if self._matches(resource, namespace, key, body)
            ]
            revision = str(store.revision)
        kind = {"apiVersion": resource.group_version, "kind": f"{resource.kind}List"}
        self._send(200, {**kind, "metadata": {"resourceVersion": revision}, "items": items})

    def _matches(self, resource: Resource, namespace: str, key: Key, body: Object) -> bool:
        if key[0] != resource.plural or (namespace and key[1] != namespace):
            return False
        labels = body["metadata"].get("labels") or {}
        for part in filter(None, self.query.get("labelSelector", "").split(",")):
            name, _, value = part.partition("=")
            if labels.get(name) != value.removeprefix("="):
                return False
        for part in filter(None, self.query.get("fieldSelector", "").split(",")):
            name, _, value = part.partition("=")
            assert name == "metadata.name", f"field selector {name}"
            if body["metadata"]["name"] != value.removeprefix("="):
                return False
        return True

    def _watch(self, resource: Resource, namespace: str) -> None:
        store, events = self.server_of.store, queue.Queue[tuple[str, Object]]()

        def listen(event: str, key: Key, body: Object) -> None:
            if self._matches(resource, namespace, key, body):
                events.put((event, body))

        since = int(self.query.get("resourceVersion") or 0)
        with store.lock:
            for key, body in store.objects.items():
                if int(body["metadata"]["resourceVersion"]) > since:
                    listen("ADDED", key, body)
            store.listeners.append(listen)
        try:
            self._stream(self._events(events, float(self.query.get("timeoutSeconds", 60))))
        finally:
            store.listeners.remove(listen)

    @staticmethod
    def _events(events: queue.Queue[tuple[str, Object]], limit_s: float) -> Iterator[str]:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                event, body = events.get(timeout=0.2)
            except queue.Empty:
                yield ""
                continue
            yield json.dumps({"type": event, "object": body}) + "\n"

    def _log(self, key: Key, pod: Object) -> None:
        store = self.server_of.store
        if key not in store.logs:
            raise Refusal(
                400,
                "BadRequest",
                f'container "{pod["spec"]["containers"][0]["name"]}" in pod "{key[2]}" is waiting to start: '
                "ContainerCreating",
            )
        if self.query.get("follow") == "true":
            self._stream(self._log_parts(key), "text/plain")
        else:
            self._send_text(200, store.logs[key](), "text/plain")

    def _log_parts(self, key: Key) -> Iterator[str]:
        store, shown = self.server_of.store, 0
        while True:
            pod = store.objects.get(key)
            ended = pod is None or pod["status"].get("phase") in ("Succeeded", "Failed")
            text = store.logs[key]()
            yield text[shown:]
            shown = len(text)
            if ended:
                return
            time.sleep(0.1)

    def _stream(self, parts: Iterator[str], content_type: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            data = part.encode()
            if data:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, code: int, body: Object) -> None:
        self._send_text(code, json.dumps(body), "application/json")

    def _send_text(self, code: int, text: str, content_type: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


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


def discovery(path: str) -> Object | None:
    """What a client asks before it asks for objects; None for the paths of objects."""
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0-emulator"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()}
    if path == "/openapi/v3":
        roots = {resource.root.removeprefix("/") for resource in RESOURCES}
        return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in sorted(roots)}}
    if path.startswith("/openapi/v3/"):
        return _open_api("/" + path.removeprefix("/openapi/v3/"))
    if path in {resource.root for resource in RESOURCES}:
        return _resource_list(path)
    return None


def _groups() -> list[Object]:
    found = []
    for group, version in sorted({(r.group, r.version) for r in RESOURCES if r.group}):
        entry = {"groupVersion": f"{group}/{version}", "version": version}
        found.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return found


def _resource_list(root: str) -> Object:
    mine = [resource for resource in RESOURCES if resource.root == root]
    listed = [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
        }
        for resource in mine
    ]
    if root == "/api/v1":
        listed.append({"name": "pods/log", "namespaced": True, "kind": "Pod", "verbs": ["get"]})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": mine[0].group_version,
        "resources": listed,
    }


def _open_api(root: str) -> Object:
    """Only what kubectl looks for: that the server validates fields and knows dry runs."""
    paths = {}
    for resource in RESOURCES:
        if resource.root == root:
            where = "/namespaces/{namespace}" if resource.namespaced else ""
            kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
            parameters = [
                {"name": name, "in": "query", "schema": {"type": "string"}}
                for name in ("fieldValidation", "dryRun")
            ]
            patch = {"parameters": parameters, "x-kubernetes-group-version-kind": kind, "responses": {}}
            paths[f"{root}{where}/{resource.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "emulator", "version": "1"}, "paths": paths}
