"""Copy what the pods have written into the run folder on this machine."""

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
    """Return the log of torchrun on one node, with its report of failures."""
    return folder.logs(attempt) / f"agent-{node}.log"


def training_container(pod: Mapping[str, Any]) -> str:
    """Return the name of the container that trains: a patch or a service mesh may add others to a pod."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    return next((name for name in names if name in TRAINS.values()), names[0])


def collect(
    client: Client, pods: Mapping[int, Mapping[str, Any]], folder: RunFolder, attempt: int, shared: bool
) -> None:
    """Copy the logs of these pods, and the files that they carry. May be called at any time, and again.

    With `shared` the pods use this very run folder: only what does not exist yet is written.
    """
    for node, pod in pods.items():
        text = client.logs(pod["metadata"]["name"], training_container(pod))
        lines = text.split("\n")
        extend(pod_log(folder, attempt, node), text.encode())
        agent_lines = [line.removeprefix(_AGENT) for line in lines if line.startswith(_AGENT)]
        if agent_lines:
            extend(agent_log(folder, attempt, node), ("\n".join(agent_lines) + "\n").encode())
        if not shared:
            receive(lines, folder.root)
            for rank, text_of_rank in rank_texts(lines).items():
                extend(folder.rank_log(attempt, rank), text_of_rank.encode())
