"""The launcher contract on the emulated cluster: real kubectl, real torchrun in every pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from galley.run.seal import snapshot_sha256
from galley.rundir import RunFolder
from galley.spec import RunHandle, RunSpec
from launchers.base import Launcher
from launchers.k8s.launcher import K8sLauncher
from launchers.k8s.manifest.job import KINDS
from tests.contract.launcher_contract import LauncherContract
from tests.integration.k8s.cluster import Cluster


class TestPyTorchJob(LauncherContract):
    kind: Literal["pytorchjob", "trainjob"] = "pytorchjob"

    def make(self) -> K8sLauncher:
        return K8sLauncher()

    def foreign_job(self) -> str:  # type: ignore[override]
        return f"team-a/{KINDS[self.kind]}/another"

    def spec(self, **env: str) -> RunSpec:
        return self._of_kind(super().spec(**env))

    def _of_kind(self, spec: RunSpec, **k8s: Any) -> RunSpec:
        launcher = spec.recipe.launcher
        launcher = replace(launcher, kind=self.kind, k8s=replace(launcher.k8s, **k8s))
        return replace(spec, recipe=replace(spec.recipe, launcher=launcher))

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster, folder: RunFolder) -> None:
        """The run folder lies on the claim."""
        cluster.claim = folder.root.parent

    def submit(self, folder: RunFolder, attempt: int = 1) -> tuple[Launcher, RunHandle]:
        spec = self._of_kind(folder.read_spec(), transport="claim", claim_here=str(folder.root.parent))
        folder.write_spec(replace(spec, code=replace(spec.code, sha256=snapshot_sha256(folder))))
        return super().submit(folder, attempt)


class TestTrainJob(TestPyTorchJob):
    kind = "trainjob"
