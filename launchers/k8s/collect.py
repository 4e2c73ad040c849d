"""What the pods have written, put into the run folder here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galley.config.rules.k8s import TRAINS
from galley.rundir import RunFolder
from launchers.k8s.clients.base import Client
from launchers.k8s.relay import extend, rank_texts, receive

_AGENT = "[agent] "


def pod_log(folder: RunFolder, attempt: int, node: int) -> Path:
    return folder.logs(attempt) / f"pod-{node}.log"


def agent_log(folder: RunFolder, attempt: int, node: int) -> Path:
    """torchrun's own words on one node, among them its report of failures."""
    return folder.logs(attempt) / f"agent-{node}.log"


def training_container(pod: Mapping[str, Any]) -> str:
    """The name of the container that trains: a pod may have others, of a patch or of a service mesh."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    return next((name for name in names if name in TRAINS.values()), names[0])


def collect(
    client: Client, pods: Mapping[int, Mapping[str, Any]], folder: RunFolder, attempt: int, shared: bool
) -> None:
    """The logs of these pods, and the files that they carry. May be called at any time, and again.

    With `shared` the run folder is the one of the pods: only what is not there yet is written.
    """
    for node, pod in pods.items():
        text = client.logs(pod["metadata"]["name"], training_container(pod))
        lines = text.split("\n")
        extend(pod_log(folder, attempt, node), text.encode())
        own = [line.removeprefix(_AGENT) for line in lines if line.startswith(_AGENT)]
        if own:
            extend(agent_log(folder, attempt, node), ("\n".join(own) + "\n").encode())
        if not shared:
            receive(lines, folder.root)
            for rank, said in rank_texts(lines).items():
                extend(folder.rank_log(attempt, rank), said.encode())
