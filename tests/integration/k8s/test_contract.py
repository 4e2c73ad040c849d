"""The launcher contract on the emulated cluster: real kubectl, real torchrun in every pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from galley.rundir import RunFolder
from galley.seal import snapshot_sha256
from galley.spec import RunHandle
from launchers.base import Launcher
from launchers.k8s.launcher import K8sLauncher
from tests.contract.launcher_contract import LauncherContract
from tests.integration.k8s.cluster import Cluster


class TestPyTorchJob(LauncherContract):
    def make(self) -> K8sLauncher:
        return K8sLauncher()

    def foreign_job(self) -> str:  # type: ignore[override]
        return "team-a/pytorchjobs.kubeflow.org/another"

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster, folder: RunFolder) -> None:
        """The run folder lies on the claim."""
        cluster.claim = folder.root.parent

    def submit(self, folder: RunFolder, attempt: int = 1) -> tuple[Launcher, RunHandle]:
        spec = folder.read_spec()
        here = str(folder.root.parent)
        k8s = replace(spec.recipe.launcher.k8s, transport="claim", claim_here=here)
        recipe = replace(spec.recipe, launcher=replace(spec.recipe.launcher, k8s=k8s))
        code = replace(spec.code, sha256=snapshot_sha256(folder))
        folder.write_spec(replace(spec, recipe=recipe, code=code))
        return super().submit(folder, attempt)
