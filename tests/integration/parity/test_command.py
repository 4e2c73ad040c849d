"""`parity` from the command line: real launched runs, a report, a picture, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.reference import SMALL_BERT
from tests.support import run_galley

SMALL = [
    "batch.global_size=4", "data.max_length=16", "data.max_samples=40", "cluster.procs_per_node=2",
    *SMALL_BERT,
]  # fmt: skip


@pytest.mark.timeout(900)
def test_parity_of_real_runs(tmp_path: Path) -> None:
    words = ["parity", "strategies=ddp", "steps=3", "batch.micro_size=1", *SMALL, "--json"]
    done = run_galley(words, cwd=tmp_path, timeout=800)
    assert done.rc == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    folder = Path(report.pop("run_dir"))
    assert folder.parent == tmp_path / "runs"
    assert report == json.loads((folder / "parity.json").read_text())
    assert (folder / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert "tolerance" in done.err
    reference, ddp = report["runs"]
    assert (reference["strategy"], reference["ranks"], reference["accumulation"]) == ("single", 1, 4)
    assert (ddp["engaged"]["engine"], ddp["ranks"], ddp["accumulation"]) == ("DistributedDataParallel", 2, 2)
    assert (ddp["within"], ddp["cause"]) == (True, None)
    assert 0 <= ddp["deviation"]["loss"] <= report["tolerance"]["loss"] == 1e-5
    assert ddp["loss"] == pytest.approx(reference["loss"], abs=1e-5)
    assert len(ddp["loss"]) == len(ddp["grad_norm"]) == report["steps"] == 3
    for name in ("single", "ddp"):
        run = RunFolder(folder / name)
        assert run.read_spec().recipe.strategy.name == name
