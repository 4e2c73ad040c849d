"""Kubernetes' strategic merge of a patch into a pod template. Pure functions.

Mappings are merged, null removes a key, and lists are replaced, except those whose items have a name:
their items are merged by it, and `$patch: delete` removes one, like `kubectl patch` does.
"""

from __future__ import annotations

from typing import Any

# What names the items of each list of a pod (x-kubernetes-list-map-keys), by the list's field; a list of
# another name is replaced whole.
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_DEFAULTS = {"protocol": "TCP"}
_DIRECTIVE = "$patch"


def merge(value: Any, patch: Any, field: str = "") -> Any:
    """Return `value` with `patch` merged into it; neither is changed.

    `field` is the name of `value`'s field.
    """
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


def _merge_items(value: list[Any], patch: list[dict[str, Any]], keys: tuple[str, ...]) -> list[Any]:
    """Items that the patch names are merged or taken away, others are added at the end."""
    merged = list(value)
    for item in patch:
        named = [one for one in merged if _is_named(one, item, keys)]
        if item.get(_DIRECTIVE) == "delete":
            merged = [one for one in merged if one not in named]
        elif named:
            merged = [merge(one, item) if one in named else one for one in merged]
        else:
            merged.append(merge(None, item))
    return merged


def _is_named(item: Any, patch: dict[str, Any], keys: tuple[str, ...]) -> bool:
    """Return whether all keys agree.

    A further key that the patch omits, and without a default, agrees with any.
    """
    first, *further = keys
    if item.get(first) != patch.get(first):
        return False
    stated = {key: patch.get(key, _DEFAULTS.get(key)) for key in further}
    return all(item.get(key, _DEFAULTS.get(key)) == stated[key] for key in further if stated[key] is not None)
