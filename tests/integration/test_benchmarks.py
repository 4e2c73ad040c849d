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
def test_strategies_are_measured_next_to_a_bare_loop_with_as_many_ranks() -> None:
    words = ["--strategies", "zero2,fsdp_hybrid,zero3_nvme", "--rounds", "1", "--steps", "5", "--json"]
    tiny = ["model.from_config=true", "model.config={hidden_size: 16, num_hidden_layers: 1, "
            "num_attention_heads: 2, intermediate_size: 16}", "data.max_length=16"]  # fmt: skip
    done = run_process([sys.executable, "-P", "-m", "benchmarks.strategies", *words, *tiny], timeout=540)
    assert done.rc == 0, done.err
    assert "zero3_nvme is left out: " in done.err
    found = json.loads(done.out.splitlines()[-1])["strategies"]  # DeepSpeed prints above it
    ranks = {"bare torch DDP, 2": 2, "bare torch DDP, 4": 4, "zero2": 2, "fsdp_hybrid": 4}
    assert {name: row["ranks"] for name, row in found.items()} == ranks
    for name, row in found.items():
        bare = found[f"bare torch DDP, {row['ranks']}"]
        assert row["ratio"] == row["samples_per_s"] / bare["samples_per_s"], name
        assert min(row["samples_per_s"], row["peak_memory_gib"], row["stall_s"]) > 0


@pytest.mark.timeout(600)
def test_slots_are_measured_next_to_a_barrier() -> None:
    words = ["--parts", "slots", "--shortest", "0.2", "--json"]
    done = run_process([sys.executable, "-P", "-m", "benchmarks.sweeps", *words], timeout=540)
    assert done.rc == 0, done.err
    found = json.loads(done.out)["slots"]
    assert 0 < found["galley, warm"] <= 1
    assert 0 < found["barrier, at best"] < 0.7
