from __future__ import annotations

import pytest

from launchers.slurm.launcher import SlurmLauncher
from tests.contract.launcher_contract import LauncherContract


@pytest.mark.usefixtures("cluster")
class TestSlurm(LauncherContract):
    def make(self) -> SlurmLauncher:
        return SlurmLauncher()

    def foreign_job(self) -> int:
        return 999_999
