from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support import require_program


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[SlurmCluster]:
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        require_program(program, "the tests on a real Slurm cluster")
    root = Path(tempfile.mkdtemp(prefix="galley-slurm-"))  # munge wants a socket path below 108 characters
    cluster = SlurmCluster(root)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def cluster(running_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The cluster, as the one that this process and its children talk to."""
    for name, value in running_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return running_cluster
