"""What a launcher asks of a cluster, whichever client carries it."""

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
    """Which cluster, and where in it. Empty: what the client takes by itself (inside a pod)."""

    context: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"context {self.context or '(in-cluster)'}, namespace {self.namespace or '(default)'}"


class Client(ABC):
    """What a launcher needs of a cluster.

    Every method raises `SubmissionError` with the server's own reason where it refuses or cannot be
    reached.
    """

    def __init__(self, place: KubeContext) -> None:
        self.place = place

    @abstractmethod
    def current(self) -> KubeContext:
        """The place, with what it leaves open filled in."""

    @abstractmethod
    def create(self, argv: Sequence[str], files: Sequence[Path]) -> None:
        """Carry out `argv`, a `kubectl create` of the files."""

    @abstractmethod
    def get(self, resource: str, name: str) -> Object | None:
        """An object (`pytorchjobs.kubeflow.org`); None where there is none."""

    @abstractmethod
    def pods(self, selector: str) -> list[Object]:
        """Pods by labels (`a=b,c=d`)."""

    @abstractmethod
    def logs(self, pod: str, container: str) -> str:
        """What a container of the pod has written so far; empty before it has started."""

    @abstractmethod
    def delete(self, files: Sequence[Path]) -> None:
        """Delete every object of the files that is there; does not wait for them to be gone."""
