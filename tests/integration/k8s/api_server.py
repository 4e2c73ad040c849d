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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.integration.k8s.api_discovery import discovery
from tests.integration.k8s.api_objects import (
    Key,
    Object,
    Refusal,
    Resource,
    Store,
    locate,
    merge,
    refuse_invalid,
)
from tests.integration.k8s.crds import Schema


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
        names, asked = [entry["name"] for entry in pod["spec"]["containers"]], self.query.get("container")
        if asked is None and len(names) > 1:
            what = f"a container name must be specified for pod {key[2]}, choose one of: {names}"
            raise Refusal(400, "BadRequest", what)
        if asked is not None and asked not in names:
            raise Refusal(400, "BadRequest", f"container {asked} is not valid for pod {key[2]}")
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
