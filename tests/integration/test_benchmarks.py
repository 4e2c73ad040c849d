"""Every benchmark runs and reports."""

from __future__ import annotations

import json
import sys

from tests.support import run_process


def test_startup_reports_every_command() -> None:
    argv = [sys.executable, "-P", "-m", "benchmarks.startup", "--rounds", "1", "--json"]
    done = run_process(argv)
    assert done.rc == 0, done.err
    commands = json.loads(done.out)["commands"]
    assert {"import hydra", "train.py --help", "train.py plan", "train.py recipes"} <= set(commands)
    assert commands["import hydra"]["ratio"] == 1
    assert all(0 < row["min_s"] <= row["median_s"] <= row["max_s"] for row in commands.values())
