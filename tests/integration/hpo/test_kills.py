"""A hundred studies, each killed once: controller, trainer, or both; then resumed to the end.

Real: the controller, its journal, Optuna's storage, composing, sealing, the local launcher and its
processes. Stood in for: the trainer (`standin_trainer.py`), which behaves as the real one does. That the
real one goes on from its checkpoint after SIGKILL is tested in tests/integration/train.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.local.standin import last_json
from tests.support import REPO, run_process

POINTS = 100


@pytest.mark.timeout(1800)
def test_study_survives_a_kill_at_any_instant(tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "ignore", "-m", "tests.integration.hpo.fuzz", tmp_path, str(POINTS)]
    done = run_process(argv, env={"PYTHONPATH": str(REPO)}, timeout=1700)
    assert done.rc == 0, done.err
    report = last_json(done.out)
    assert report["points"] >= POINTS
    assert report["failures"] == {}
