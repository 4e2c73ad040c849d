"""The cluster through kubectl."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from galley.errors import SubmissionError
from galley.system import proc
from launchers.k8s.clients.base import TIMEOUT_S, Client, KubeContext, Object


class Kubectl(Client):
    """kubectl on PATH."""

    def current(self) -> KubeContext:
        try:
            text = proc.run(self._argv("config", "view", "--minify", "--output=json"), timeout_s=TIMEOUT_S)
        except SubmissionError:  # no kubeconfig: kubectl uses the service account of the pod it is in
            return self.place
        view = json.loads(text)
        contexts: list[Object] = [entry["context"] for entry in view.get("contexts") or []]
        context = contexts[0] if contexts else {}
        return KubeContext(
            self.place.context or view.get("current-context", ""),
            self.place.namespace or context.get("namespace", "default"),
        )

    def create(self, argv: Sequence[str], files: Sequence[Path]) -> None:
        proc.run(argv, timeout_s=TIMEOUT_S, env=dict(os.environ))

    def get(self, resource: str, name: str) -> Object | None:
        text = self._run("get", resource, name, "--ignore-not-found", "--output=json")
        return dict(json.loads(text)) if text.strip() else None

    def pods(self, selector: str) -> list[Object]:
        return list(json.loads(self._run("get", "pods", f"--selector={selector}", "--output=json"))["items"])

    def logs(self, pod: str, container: str) -> str:
        try:
            return self._run("logs", pod, f"--container={container}")
        except SubmissionError as error:
            if "is waiting to start" in str(error):
                return ""
            raise

    def delete(self, files: Sequence[Path]) -> None:
        self._run("delete", *file_flags(files), "--ignore-not-found", "--wait=false")

    def _run(self, *words: str) -> str:
        return proc.run(self._argv(*words), timeout_s=TIMEOUT_S)

    def _argv(self, *words: str) -> list[str]:
        return ["kubectl", *words, *place_flags(self.place.context, self.place.namespace)]


def file_flags(files: Sequence[Path]) -> list[str]:
    """Return `-f FILE` for each file.

    kubectl reads the value as a line of CSV: commas and quotes need quotes.
    """
    flags = []
    for path in files:
        text = str(path)
        quoted = '"' + text.replace('"', '""') + '"' if any(mark in text for mark in '",\n\r') else text
        flags += ["-f", quoted]
    return flags


def place_flags(context: str | None, namespace: str | None) -> list[str]:
    """Return the options of kubectl for the values that are given."""
    flags = {"context": context, "namespace": namespace}
    return [f"--{name}={value}" for name, value in flags.items() if value]
