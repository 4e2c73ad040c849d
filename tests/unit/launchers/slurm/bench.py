"""Runs a generated Slurm script in real bash, with stand-ins for Slurm's programs on PATH."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from galley.rundir import RunFolder
from galley.schema import Cluster, Slurm
from galley.spec import ClusterFacts, LaunchPlan, RunSpec
from launchers.lifecycle.launch import write_plan
from launchers.slurm.launcher import SlurmLauncher
from tests.integration.local.standin import make_spec

FACTS = ClusterFacts("node", 0, 0.0, 1, 0.0)
# Every program notes its arguments, one a line after its name, and then does what the test says.
STAND_IN = """\
#!/bin/bash
printf '%s\\n' "== ${0##*/}" "$@" >>"$BENCH/calls"
"""
PROGRAMS = {
    "squeue": 'cat "$BENCH/nodelist"\n',
    "scontrol": """\
case "$1 $2" in
    "show hostnames") cat "$BENCH/nodes" ;;
    "show node") echo "NodeName=$4 Gres=(null) NodeAddr=$4.example NodeHostName=$4 Port=1" ;;
    requeue*) exit 0 ;;
esac
""",
    "srun": 'env -0 >"$BENCH/environment"\n',
}


def make_spec_on(nodes: int = 2, ranks: int = 2, cluster: Cluster | None = None, **slurm: Any) -> RunSpec:
    spec = make_spec("succeed", nodes * ranks)
    layout = replace(spec.layout, nodes=nodes, procs_per_node=ranks, threads_per_proc=3)
    launcher = replace(spec.recipe.launcher, kind="slurm", slurm=Slurm(**slurm))
    return replace(
        spec, layout=layout, recipe=replace(spec.recipe, launcher=launcher, cluster=cluster or Cluster())
    )


def plan_on(
    run_dir: Path, spec: RunSpec | None = None, facts: ClusterFacts = FACTS, attempt: int = 1
) -> LaunchPlan:
    return SlurmLauncher("/opt/python").plan(spec or make_spec_on(), run_dir, facts, attempt)


class Bench:
    """A run folder with its plan, and the programs that its scripts will find."""

    def __init__(self, root: Path, spec: RunSpec | None = None, attempt: int = 1) -> None:
        self.root = root
        self.folder = RunFolder(root / "run")
        write_plan(plan_on(self.folder.root, spec, attempt=attempt), self.folder)
        (root / "nodes").write_text("node1\nnode2\n")
        (root / "nodelist").write_text("node[1-2]\n")
        (root / "bin").mkdir()
        for name, body in PROGRAMS.items():
            self.program(name, body)

    def program(self, name: str, body: str) -> None:
        path = self.root / "bin" / name
        path.write_text(STAND_IN + body)
        path.chmod(0o755)

    def leave_result(self, state: str, attempts: int = 1) -> str:
        """A line of bash by which a stand-in writes the run's result, as the worker would."""
        text = json.dumps({"state": state, "attempts": attempts, "message": '"state": "other"'}, indent=2)
        (self.root / "next.json").write_text(text)
        return f'cp "$BENCH/next.json" {shlex.quote(str(self.folder.result_file))}\n'

    def start(self, script: str = "job.sh", **environ: str) -> subprocess.Popen[str]:
        own = {"BENCH": str(self.root), "SLURM_JOB_ID": "31234", "SLURM_SUBMIT_DIR": str(self.root)}
        return subprocess.Popen(
            ["bash", self.folder.plan / script],
            env={**os.environ, **own, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **environ},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.root,
        )  # fmt: skip

    def run(self, script: str = "job.sh", **environ: str) -> tuple[int, str]:
        process = self.start(script, **environ)
        out, _ = process.communicate(timeout=20)
        return process.returncode, out

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of every call of a program, in order."""
        text = (self.root / "calls").read_text() if (self.root / "calls").exists() else ""
        calls = [call.splitlines() for call in text.split("== ")[1:]]
        return [arguments for name, *arguments in calls if name == program]

    def environment(self) -> dict[str, str]:
        """What the last srun passed on."""
        rows = (self.root / "environment").read_bytes().decode().split("\0")
        return dict(row.split("=", 1) for row in rows if row)
