from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from galley.rundir import RunFolder
from galley.spec import ClusterFacts, LaunchPlan, MpiFacts, RunHandle, RunSpec, State
from launchers.base import Launcher
from launchers.mpi.launcher import MpiLauncher
from tests.contract.launcher_contract import LauncherContract
from tests.integration.local.standin import wait_until
from tests.integration.mpi.flavors import find


class WithMpi(MpiLauncher):
    """Plans for one mpirun, whatever the facts say."""

    def __init__(self, found: MpiFacts) -> None:
        super().__init__()
        self.found = found

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        return super().plan(spec, run_dir, replace(facts, mpi=self.found), attempt)


class TestOpenMpi(LauncherContract):
    def make(self) -> MpiLauncher:
        return WithMpi(find("openmpi"))


class TestMpich(LauncherContract):
    def make(self) -> MpiLauncher:
        return WithMpi(find("mpich"))

    def wait(self, launcher: Launcher, handle: RunHandle, folder: RunFolder) -> State:
        """Hydra lets the others run on when a rank exits with an error: `follow` ends them."""
        living = ("queued", "running")
        wait_until(
            lambda: launcher.poll(handle, folder) not in living or folder.read_rank_errors(handle.attempt), 60
        )
        launcher.end_ranks(handle, folder)
        return super().wait(launcher, handle, folder)


class TestIntelMpi(TestMpich):
    def make(self) -> MpiLauncher:
        return WithMpi(find("intel"))
