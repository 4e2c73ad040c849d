"""The client of this machine."""

from __future__ import annotations

import shutil

from launchers.k8s.client import Client, Place
from launchers.k8s.kubectl import Kubectl


def make_client(place: Place) -> Client:
    """kubectl, else the Kubernetes client for Python. Raises `SubmissionError` where there is neither."""
    if shutil.which("kubectl") is not None:
        return Kubectl(place)
    from launchers.k8s.pyclient import PythonClient

    return PythonClient(place)
