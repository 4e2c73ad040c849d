"""The real CRDs as validators: read from the shared folder, never copied."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]


@cache
def load(folder: Path) -> dict[str, Schema]:
    """Kind -> the schema of its one version, strict: unknown fields are errors."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        version = definition["spec"]["versions"][0]
        found[definition["spec"]["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    assert set(found) == {"PyTorchJob", "TrainJob", "ClusterTrainingRuntime"}, (
        f"CRDs in {folder}: {set(found)}"
    )
    return found


def strict(schema: Schema, root: bool = True) -> Schema:
    """As the API server reads it: what is not named is unknown, but in `metadata` (its own type)."""
    result = dict(schema)
    if "properties" in result:
        result["properties"] = {name: strict(part, False) for name, part in result["properties"].items()}
        if root:
            result["properties"]["metadata"] = {"type": "object"}
        if not result.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = strict(result["additionalProperties"], False)
    if isinstance(result.get("items"), dict):
        result["items"] = strict(result["items"], False)
    if result.get("nullable"):
        result = {"anyOf": [{"type": "null"}, result]}
    return result


def rejections(schemas: dict[str, Schema], body: dict[str, Any]) -> list[tuple[str, str]]:
    """(path of the field, what the CRD says); empty where it accepts, or where there is no CRD."""
    if body.get("kind") not in schemas:
        return []
    validator = jsonschema.Draft202012Validator(schemas[body["kind"]])
    found = []
    for error in validator.iter_errors(body):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        found.append((path.lstrip("."), error.message))
    return found
