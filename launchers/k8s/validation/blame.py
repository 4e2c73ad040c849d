"""Find the key of a recipe that a field of a manifest comes from, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from galley.errors import Problem
from galley.schema import K8s

# A part of the path of a field -> the options from which it is made.
_FIELDS = {
    "affinity": ("affinity",),
    "tolerations": ("tolerations",),
    "topologySpreadConstraints": ("topology_spread",),
    "nodeSelector": ("node_selector",),
    "envFrom": ("env_from",),
    "initContainers": ("init_containers",),
    "annotations": ("annotations",),
    "labels": ("labels",),
    "volumes": ("volumes", "claim"),
    "volumeMounts": ("volumes", "mount_path", "sub_path"),
    "resources": ("resources", "requests"),
    "resourcesPerNode": ("resources", "requests"),
}


def name_keys(problems: Iterable[Problem], options: K8s) -> list[Problem]:
    """Return the problems, with hints that name the options from which the field comes."""
    return [_named(problem, options) for problem in problems]


def _named(problem: Problem, options: K8s) -> Problem:
    keys = [f"launcher.k8s.{name}" for name in _options_of(problem.where, options)]
    named = ", ".join(key for key in keys if key not in problem.hint)
    return replace(problem, hint="; ".join(filter(None, (problem.hint, f"see {named}" if named else ""))))


def _options_of(where: str, options: K8s) -> list[str]:
    """Return the options that are set, of the outermost field of the pod that has any."""
    unset, parts = K8s(), re.split(r"[. \[\]]+", where)
    named = next((_FIELDS[part] for part in parts if part in _FIELDS), ())
    changed = [name for name in named if getattr(options, name) != getattr(unset, name)]
    inside = {*(options.patch.get("spec") or {}), *(options.patch.get("metadata") or {})}
    patched = inside | ({*options.patch} - {"spec", "metadata"})
    return [*changed, *(["patch"] if patched & set(parts) else [])]
