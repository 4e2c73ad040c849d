"""MRPC as people train it, through the command line: the quality of the source, equal strategies.

Not part of `make test`: some ten minutes on two idle cores. `make acceptance` runs it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from galley.rundir import RunFolder
from tests.support import run_galley

SETTINGS = (
    "recipe=mrpc_deberta", "model=deberta_minilm", "precision=fp32", "batch.global_size=32",
    "optim.lr=1e-4", "train.epochs=3", "cluster.procs_per_node=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    root = tmp_path_factory.mktemp("mrpc")
    for strategy in ("ddp", "zero2"):
        words = [*SETTINGS, f"strategy={strategy}", f"run_dir={root}/{strategy}"]
        done = run_galley([*words, f"data.path={shared_dir}/data/mrpc"], cwd=root, timeout=3000)
        assert done.rc == 0, done.err
    return {strategy: RunFolder(root / strategy) for strategy in ("ddp", "zero2")}


def metrics(run: RunFolder) -> dict[str, float]:
    result = run.read_result()
    assert result is not None
    return result.metrics


@pytest.mark.timeout(6000)
def test_both_strategies_reach_the_quality_of_mrpc(runs: dict[str, RunFolder]) -> None:
    for run in runs.values():
        assert metrics(run)["eval/f1"] >= 0.85
        assert metrics(run)["eval/accuracy"] >= 0.78


def test_both_strategies_agree(runs: dict[str, RunFolder]) -> None:
    ddp, zero2 = metrics(runs["ddp"]), metrics(runs["zero2"])
    assert zero2["eval/f1"] == pytest.approx(ddp["eval/f1"], abs=0.01)
    assert zero2["eval/accuracy"] == pytest.approx(ddp["eval/accuracy"], abs=0.01)
    a, b = (load_file(run.model / "model.safetensors") for run in runs.values())
    assert a.keys() == b.keys()
    assert max(float(np.abs(a[name] - b[name]).max()) for name in a) < 1e-4
