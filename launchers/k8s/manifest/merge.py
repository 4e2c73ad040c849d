"""Kubernetes' strategic merge of a patch into a pod template. Pure.

Mappings are merged, null takes a key away, and lists are replaced, but for those whose items have a name:
their items are merged by it, and `$patch: delete` takes one away, as `kubectl patch` does.
"""

from __future__ import annotations

from typing import Any

# The patchMergeKey of each list of a pod, by its field; a list of another name is replaced whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE = "$patch"


def merge(value: Any, patch: Any, field: str = "") -> Any:
    """`value` with `patch` merged into it; neither is changed. `field` is the name that `value` goes by."""
    if isinstance(patch, dict):
        return _merge_mapping(value if isinstance(value, dict) else {}, patch)
    if isinstance(patch, list) and field in MERGE_KEYS and all(isinstance(item, dict) for item in patch):
        return _merge_items(value if isinstance(value, list) else [], patch, MERGE_KEYS[field])
    return patch


def _merge_mapping(value: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get(_DIRECTIVE) == "replace":
        return {name: part for name, part in patch.items() if name != _DIRECTIVE}
    changed = {name: merge(value.get(name), part, name) for name, part in patch.items() if part is not None}
    return {name: part for name, part in {**value, **changed}.items() if name in changed or name not in patch}


def _merge_items(value: list[Any], patch: list[dict[str, Any]], key: str) -> list[Any]:
    found = {item.get(key): item for item in value}
    for item in patch:
        name = item.get(key)
        if item.get(_DIRECTIVE) == "delete":
            found.pop(name, None)
        else:
            found[name] = merge(found.get(name), item)
    return list(found.values())
