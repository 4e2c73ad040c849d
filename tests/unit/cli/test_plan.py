"""`plan` for a cluster, on a machine that has neither its programs nor torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import run_process
from tests.unit.test_imports import HEAVY

# A process of its own for each launcher, from one that has loaded no launcher.
ALL = """
import json, os, sys, time
from cli.main import main
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        began = sum(os.times()[:4])
        assert main(["plan", f"launcher={name}", "--json"]) == 0
        modules = sorted({module.split(".")[0] for module in sys.modules})
        print(json.dumps({"cpu_s": sum(os.times()[:4]) - began, "modules": modules}), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, name
"""
KINDS = ("local", "mpi", "slurm", "k8s", "ray")


@pytest.mark.slow
def test_every_launcher_plans_without_programs_and_without_torch_as_fast_as_local(tmp_path: Path) -> None:
    done = run_process([sys.executable, "-P", "-c", ALL, *KINDS], env={"PATH": str(tmp_path)}, cwd=tmp_path)
    assert done.rc == 0, done.err
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.out.splitlines()]
    plans = dict(zip(KINDS, lines[::2], strict=True))
    spent = dict(zip(KINDS, lines[1::2], strict=True))
    for name, plan in plans.items():
        assert not HEAVY & set(spent[name]["modules"]), name
        assert plan["launcher"] == name
        assert plan["argv"]
        assert plan["layout"]["global_size"] == plans["local"]["layout"]["global_size"]
    seconds = {name: one["cpu_s"] for name, one in spent.items()}
    assert max(seconds.values()) <= 2 * seconds["local"], seconds
    assert not list(tmp_path.iterdir()), "nothing is written"
