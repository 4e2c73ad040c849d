"""The fields of the objects that Galley writes, with their types: the part of Kubernetes' and
Kubeflow's definitions that it uses. Everything else is refused before a server is asked.

Tests hold this table against the CRDs: each field is there, and has this type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scalar = Literal["string", "integer", "boolean", "quantity"]


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

_KEY_REFERENCE = Fields({"name": "string", "key": "string", "optional": "boolean"}, required=("key",))
ENV = ListOf(
    Fields(
        {
            "name": "string",
            "value": "string",
            "valueFrom": Fields({"secretKeyRef": _KEY_REFERENCE, "configMapKeyRef": _KEY_REFERENCE}),
        },
        required=("name",),
    )
)
TRAINER_ENV = ListOf(ENV.item, longest=128)
RESOURCES = Fields({"limits": MapOf("quantity"), "requests": MapOf("quantity")})
CONTAINER_SECURITY = Fields(
    {
        "allowPrivilegeEscalation": "boolean",
        "readOnlyRootFilesystem": "boolean",
        "runAsNonRoot": "boolean",
        "runAsUser": "integer",
        "runAsGroup": "integer",
        "capabilities": Fields({"drop": ListOf("string"), "add": ListOf("string")}),
    }
)
VOLUME_MOUNTS = ListOf(
    Fields(
        {"name": "string", "mountPath": "string", "subPath": "string", "readOnly": "boolean"},
        required=("name", "mountPath"),
    )
)
CONTAINER = Fields(
    {
        "name": "string",
        "image": "string",
        "imagePullPolicy": "string",
        "command": ListOf("string"),
        "args": ListOf("string"),
        "workingDir": "string",
        "env": ENV,
        "resources": RESOURCES,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": VOLUME_MOUNTS,
    },
    required=("name",),
)
_CONFIG_MAP = Fields({"name": "string", "optional": "boolean", "defaultMode": "integer"})
_PROJECTION = Fields({"configMap": Fields({"name": "string", "optional": "boolean"})})
VOLUMES = ListOf(
    Fields(
        {
            "name": "string",
            "persistentVolumeClaim": Fields(
                {"claimName": "string", "readOnly": "boolean"}, required=("claimName",)
            ),
            "emptyDir": Fields({"medium": "string", "sizeLimit": "quantity"}),
            "configMap": _CONFIG_MAP,
            "projected": Fields({"sources": ListOf(_PROJECTION), "defaultMode": "integer"}),
        },
        required=("name",),
    )
)
_POD_SECURITY = Fields(
    {
        "runAsNonRoot": "boolean",
        "runAsUser": "integer",
        "runAsGroup": "integer",
        "fsGroup": "integer",
        "seccompProfile": Fields({"type": "string", "localhostProfile": "string"}, required=("type",)),
    }
)
_TOLERATION = Fields(
    {
        "key": "string",
        "operator": "string",
        "value": "string",
        "effect": "string",
        "tolerationSeconds": "integer",
    }
)
# What a TrainJob may say of the pods of its runtime.
PATCHED_POD = Fields(
    {
        "serviceAccountName": "string",
        "imagePullSecrets": ListOf(Fields({"name": "string"})),
        "nodeSelector": LABELS,
        "tolerations": ListOf(_TOLERATION),
        "securityContext": _POD_SECURITY,
        "terminationGracePeriodSeconds": "integer",
        "volumes": VOLUMES,
        "containers": ListOf(
            Fields(
                {
                    "name": "string",
                    "env": ENV,
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": VOLUME_MOUNTS,
                },
                required=("name",),
            )
        ),
    }
)
POD = Fields(
    {
        **PATCHED_POD.of,
        "schedulerName": "string",
        "priorityClassName": "string",
        "restartPolicy": "string",
        "containers": ListOf(CONTAINER),
    },
    required=("containers",),
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
    """A JobSet's template, as a runtime has it, or the part that a patch of a runtime may set."""
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
