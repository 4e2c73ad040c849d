"""`plan` for a cluster, on a machine that has neither its programs nor torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support import run_process
from tests.unit.test_imports import HEAVY

ALL = """
import contextlib, io, json, sys
from galley.cli import main
plans = {}
for name in sys.argv[1:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["plan", f"launcher={name}", "--json"]) == 0
    plans[name] = json.loads(said.getvalue())
print(json.dumps({"plans": plans, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def test_every_launcher_plans_without_programs_and_without_torch(tmp_path: Path) -> None:
    kinds = ["local", "mpi", "slurm", "k8s", "ray"]
    done = run_process([sys.executable, "-P", "-c", ALL, *kinds], env={"PATH": str(tmp_path)}, cwd=tmp_path)
    assert done.rc == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert not HEAVY & set(found["modules"])
    for name, plan in found["plans"].items():
        assert plan["launcher"] == name
        assert plan["argv"]
        assert plan["layout"]["global_size"] == found["plans"]["local"]["layout"]["global_size"]
    assert not list(tmp_path.iterdir()), "nothing is written"
