"""Every benchmark runs and reports."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import run_process


def test_startup_reports_every_command() -> None:
    argv = [sys.executable, "-P", "-m", "benchmarks.startup", "--rounds", "1", "--json"]
    done = run_process(argv)
    assert done.rc == 0, done.err
    commands = json.loads(done.out)["commands"]
    assert {"import hydra", "train.py --help", "train.py plan", "train.py recipes"} <= set(commands)
    assert commands["import hydra"]["ratio"] == 1
    assert all(0 < row["min_s"] <= row["median_s"] <= row["max_s"] for row in commands.values())


@pytest.mark.timeout(600)
def test_strategies_are_measured_next_to_a_bare_loop() -> None:
    words = ["--strategies", "ddp,fsdp", "--rounds", "1", "--steps", "5", "--json"]
    done = run_process([sys.executable, "-P", "-m", "benchmarks.strategies", *words], timeout=540)
    assert done.rc == 0, done.err
    found = json.loads(done.out.splitlines()[-1])["strategies"]  # DeepSpeed prints above it
    assert set(found) == {"bare torch DDP", "ddp", "fsdp"}
    assert found["bare torch DDP"]["ratio"] == 1
    for row in found.values():
        assert all(row[key] > 0 for key in ("samples_per_s", "peak_memory_gib", "stall_s", "ratio"))


@pytest.mark.timeout(600)
def test_slots_are_measured_next_to_a_barrier() -> None:
    words = ["--parts", "slots", "--shortest", "0.2", "--json"]
    done = run_process([sys.executable, "-P", "-m", "benchmarks.sweeps", *words], timeout=540)
    assert done.rc == 0, done.err
    found = json.loads(done.out)["slots"]
    assert 0 < found["galley, warm"] <= 1
    assert 0 < found["barrier, at best"] < 0.7
