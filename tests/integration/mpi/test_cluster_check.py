"""The check of the hosts over real MPI, without torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from galley.schema import Mpi
from launchers.mpi.dialect import MpiJob, speak
from tests.integration.local.standin import make_spec
from tests.integration.mpi.flavors import FLAVORS, find
from tests.support import REPO, run_process


@pytest.mark.parametrize("flavor", FLAVORS)
def test_ranks_report_their_hosts(tmp_path: Path, flavor: str) -> None:
    spoken = speak(find(flavor), MpiJob(Mpi(), ("localhost",), make_spec().layout, ["PYTHONPATH"], tmp_path))
    (tmp_path / "hostfile").write_text(spoken.files["hostfile"])
    argv = [*spoken.argv, sys.executable, "-P", "-m", "galley.system.cluster_check"]
    done = run_process(argv, env={"PYTHONPATH": str(REPO), **spoken.env}, timeout=60)
    assert done.rc == 0, done
    assert "2 ranks on 1 host:" in done.out
    assert "python and packages agree" in done.out
