"""Write launchers/k8s/pod_fields.json: the fields of a pod, with their types, from Kubeflow's CRD.

python scripts/write_pod_fields.py kubeflow.org_pytorchjobs.yaml
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).resolve().parent.parent / "launchers" / "k8s" / "validation" / "pod_fields.json"


def compact(schema: dict[str, Any]) -> Any:
    """A scalar's name, `[item]` of a list, `{"*": value}` of a free mapping, or the fields of a mapping.

    `!` names the fields that a mapping must have.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity" if "pattern" in schema else "number or text"
    if schema["type"] == "array":
        return [compact(schema["items"])]
    if schema["type"] != "object":
        return schema["type"]
    if "properties" not in schema:
        return {"*": compact(schema["additionalProperties"])}
    fields = {name: compact(part) for name, part in sorted(schema["properties"].items())}
    return fields | ({"!": schema["required"]} if schema.get("required") else {})


def pod_fields(crd: Path) -> dict[str, Any]:
    """Of the pods of a PyTorchJob, which are those of a runtime, too."""
    definition = yaml.load(crd.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    replicas = schema["properties"]["spec"]["properties"]["pytorchReplicaSpecs"]
    pod = replicas["additionalProperties"]["properties"]["template"]["properties"]["spec"]
    return dict(compact(pod))


if __name__ == "__main__":
    TARGET.write_text(
        json.dumps(pod_fields(Path(sys.argv[1])), separators=(",", ":")) + "\n", encoding="utf-8"
    )
