"""What clients ask the emulated API server before they ask for objects."""

from __future__ import annotations

from tests.integration.k8s.api_objects import RESOURCES, Object

VERBS = ["create", "delete", "get", "list", "patch", "watch"]


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
