"""What a launcher needs of a cluster, for every client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class KubeContext:
    """A cluster, and a namespace in it. Empty values are the client's own choice (inside a pod)."""

    context: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"context {self.context or '(in-cluster)'}, namespace {self.namespace or '(default)'}"


class Client(ABC):
    """What a launcher needs of a cluster.

    Every method raises `SubmissionError` with the server's own reason if it refuses or cannot be
    reached.
    """

    def __init__(self, place: KubeContext) -> None:
        self.place = place

    @abstractmethod
    def current(self) -> KubeContext:
        """Return the context and the namespace, with the client's choice in place of empty values."""

    @abstractmethod
    def create(self, argv: Sequence[str], files: Sequence[Path]) -> None:
        """Carry out `argv`, a `kubectl create` of the files."""

    @abstractmethod
    def get(self, resource: str, name: str) -> Object | None:
        """Return an object of a resource (`pytorchjobs.kubeflow.org`); None if there is none."""

    @abstractmethod
    def pods(self, selector: str) -> list[Object]:
        """Return the pods with these labels (`a=b,c=d`)."""

    @abstractmethod
    def logs(self, pod: str, container: str) -> str:
        """Return what a container of the pod has written so far; empty before it has started."""

    @abstractmethod
    def delete(self, files: Sequence[Path]) -> None:
        """Delete every existing object of the files. Does not wait until they are gone."""
