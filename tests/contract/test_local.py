from __future__ import annotations

from launchers.local.launcher import LocalLauncher
from tests.contract.launcher_contract import LauncherContract


class TestLocal(LauncherContract):
    def make(self) -> LocalLauncher:
        return LocalLauncher()
