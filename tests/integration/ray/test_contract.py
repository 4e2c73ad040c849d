"""The launcher contract on a real Ray cluster: two nodes, a torchrun agent on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import RunHandle
from launchers.base import Launcher
from launchers.ray.launcher import RayLauncher
from tests.contract.launcher_contract import LauncherContract
from tests.integration.local.standin import end_all
from tests.integration.ray.cluster import RayCluster, spread_over_nodes


class TestRay(LauncherContract):
    def make(self) -> RayLauncher:
        return RayLauncher()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[RunFolder]:
        """As odd a path as Ray takes: it would expand a `$`."""
        folder = RunFolder(tmp_path / 'it\'s a "weird"; {x}=[1] #é' / "run")
        yield folder
        end_all(folder)

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RayCluster) -> None:
        self.address = cluster.address

    def foreign_job(self) -> str:  # type: ignore[override]
        return "another"

    def submit(self, folder: RunFolder, attempt: int = 1) -> tuple[Launcher, RunHandle]:
        folder.write_spec(spread_over_nodes(folder, self.address))
        return super().submit(folder, attempt)
