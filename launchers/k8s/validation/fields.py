"""The fields of the objects that Galley writes, with their types.

The table has all fields of a pod, and those of Kubeflow's definitions that are used. Everything else is
refused before a server is asked. Tests compare this table with the CRDs: each field exists, and has this
type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

Scalar = Literal["string", "integer", "boolean", "quantity", "number or text"]


@dataclass(frozen=True)
class Fields:
    """A mapping with known keys."""

    of: Mapping[str, Kind]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListOf:
    """A list, of at most `longest` items."""

    item: Kind
    longest: int | None = None


@dataclass(frozen=True)
class MapOf:
    """A mapping with free keys."""

    value: Kind


Kind = Scalar | Fields | ListOf | MapOf

LABELS = MapOf("string")
METADATA = Fields(
    {"name": "string", "namespace": "string", "labels": LABELS, "annotations": LABELS}, required=("name",)
)
POD_METADATA = Fields({"labels": LABELS, "annotations": LABELS})

_SCALARS: dict[str, Scalar] = {
    "string": "string", "integer": "integer", "boolean": "boolean", "quantity": "quantity",
    "number or text": "number or text",
}  # fmt: skip


def _read(written: Any) -> Kind:
    """Return a kind from the notation of `scripts/write_pod_fields.py`."""
    if isinstance(written, str):
        return _SCALARS[written]
    if isinstance(written, list):
        return ListOf(_read(written[0]))
    if "*" in written:
        return MapOf(_read(written["*"]))
    of = {name: _read(part) for name, part in written.items() if name != "!"}
    return Fields(of, required=tuple(written.get("!", ())))


def _fields(kind: Kind) -> Fields:
    """Return the fields of a mapping, or of the items of a list."""
    return cast("Fields", kind.item if isinstance(kind, ListOf) else kind)


def _only(kind: Kind, *names: str) -> Fields:
    """Return a mapping with some of its fields."""
    whole = _fields(kind)
    return Fields(
        {name: whole.of[name] for name in names}, tuple(name for name in names if name in whole.required)
    )


POD = _fields(_read(json.loads(Path(__file__).with_name("pod_fields.json").read_text(encoding="utf-8"))))
CONTAINER = _fields(POD.of["containers"])
RESOURCES = _only(CONTAINER.of["resources"], "limits", "requests")
TRAINER_ENV = ListOf(_fields(CONTAINER.of["env"]), longest=128)
_PATCHED_CONTAINERS = ListOf(_only(POD.of["containers"], "name", "env", "securityContext", "volumeMounts"))
# The fields of an existing runtime's pods that a TrainJob may set.
PATCHED_POD = Fields(
    {
        **_only(
            POD,
            *("affinity", "imagePullSecrets", "nodeSelector", "schedulingGates", "securityContext"),
            *("serviceAccountName", "terminationGracePeriodSeconds", "tolerations", "volumes"),
        ).of,
        "initContainers": _PATCHED_CONTAINERS,
        "containers": _PATCHED_CONTAINERS,
    }
)
_REPLICA = Fields(
    {
        "replicas": "integer",
        "restartPolicy": "string",
        "template": Fields({"metadata": POD_METADATA, "spec": POD}, required=("spec",)),
    },
    required=("replicas", "template"),
)
PYTORCH_JOB = Fields(
    {
        "apiVersion": "string",
        "kind": "string",
        "metadata": METADATA,
        "spec": Fields(
            {
                "elasticPolicy": Fields(
                    {
                        "rdzvBackend": "string",
                        "rdzvConf": ListOf(Fields({"key": "string", "value": "string"})),
                        "minReplicas": "integer",
                        "maxReplicas": "integer",
                        "maxRestarts": "integer",
                    }
                ),
                "nprocPerNode": "string",
                "runPolicy": Fields(
                    {
                        "cleanPodPolicy": "string",
                        "backoffLimit": "integer",
                        "ttlSecondsAfterFinished": "integer",
                        "activeDeadlineSeconds": "integer",
                        "suspend": "boolean",
                        "schedulingPolicy": Fields(
                            {
                                "minAvailable": "integer",
                                "scheduleTimeoutSeconds": "integer",
                                "priorityClass": "string",
                                "queue": "string",
                            }
                        ),
                    }
                ),
                "pytorchReplicaSpecs": MapOf(_REPLICA),
            },
            required=("pytorchReplicaSpecs",),
        ),
    },
    required=("apiVersion", "kind", "metadata", "spec"),
)


def _replicated_jobs(pod: Fields, patch: bool) -> Fields:
    """Return a JobSet's template for a runtime, or the part of it that a patch of a runtime may set."""
    template = Fields({"metadata": POD_METADATA, "spec": pod})
    job = Fields({"template": template})
    if not patch:
        job = Fields({"template": template, "backoffLimit": "integer"}, required=("template",))
    item = Fields(
        {"name": "string", "template": Fields({"metadata": POD_METADATA, "spec": job})},
        required=("name",) if patch else ("name", "template"),
    )
    spec: dict[str, Kind] = {"replicatedJobs": ListOf(item)}
    return Fields({"spec": Fields(spec if patch else {**spec, "ttlSecondsAfterFinished": "integer"})})


TRAIN_JOB = Fields(
    {
        "apiVersion": "string",
        "kind": "string",
        "metadata": METADATA,
        "spec": Fields(
            {
                "runtimeRef": Fields(
                    {"name": "string", "kind": "string", "apiGroup": "string"}, required=("name",)
                ),
                "activeDeadlineSeconds": "integer",
                "suspend": "boolean",
                "trainer": Fields(
                    {
                        "image": "string",
                        "command": ListOf("string", longest=128),
                        "args": ListOf("string", longest=128),
                        "env": TRAINER_ENV,
                        "numNodes": "integer",
                        "numProcPerNode": "integer",
                        "resourcesPerNode": RESOURCES,
                    }
                ),
                "runtimePatches": ListOf(
                    Fields(
                        {
                            "manager": "string",
                            "trainingRuntimeSpec": Fields(
                                {"template": _replicated_jobs(PATCHED_POD, patch=True)}
                            ),
                        },
                        required=("manager",),
                    ),
                    longest=16,
                ),
            },
            required=("runtimeRef",),
        ),
    },
    required=("apiVersion", "kind", "metadata", "spec"),
)
TRAINING_RUNTIME = Fields(
    {
        "apiVersion": "string",
        "kind": "string",
        "metadata": METADATA,
        "spec": Fields(
            {
                "mlPolicy": Fields({"numNodes": "integer", "torch": Fields({})}),
                "podGroupPolicy": Fields(
                    {
                        "coscheduling": Fields({"scheduleTimeoutSeconds": "integer"}),
                        "volcano": Fields({}),
                    }
                ),
                "template": _replicated_jobs(POD, patch=False),
            },
            required=("template",),
        ),
    },
    required=("apiVersion", "kind", "metadata", "spec"),
)
CONFIG_MAP = Fields(
    {
        "apiVersion": "string",
        "kind": "string",
        "metadata": METADATA,
        "data": MapOf("string"),
        "binaryData": MapOf("string"),
    },
    required=("apiVersion", "kind", "metadata"),
)

OBJECTS: dict[tuple[str, str], Fields] = {
    ("v1", "ConfigMap"): CONFIG_MAP,
    ("kubeflow.org/v1", "PyTorchJob"): PYTORCH_JOB,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): TRAIN_JOB,
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"): TRAINING_RUNTIME,
}
