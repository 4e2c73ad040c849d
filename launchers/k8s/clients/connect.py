"""Choose the client of this machine."""

from __future__ import annotations

import shutil

from launchers.k8s.clients.base import Client, KubeContext
from launchers.k8s.clients.kubectl import Kubectl


def make_client(place: KubeContext) -> Client:
    """Return kubectl, else the Kubernetes client for Python. Raises `SubmissionError` if there is neither."""
    if shutil.which("kubectl") is not None:
        return Kubectl(place)
    from launchers.k8s.clients.pyclient import PythonClient

    return PythonClient(place)
