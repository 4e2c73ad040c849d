"""Sealed runs for the cluster whose ranks are stand-ins; one rank a node starts without torchrun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from galley.rundir import RunFolder
from galley.schema import Cluster, Slurm
from galley.spec import ClusterFacts, RunHandle, RunSpec
from launchers.lifecycle.launch import submit, write_plan
from launchers.lifecycle.prepare import prepare
from launchers.slurm.launcher import SlurmLauncher
from tests.integration.local.standin import make_run, make_spec

FACTS = ClusterFacts("node", 0, 0.0, 1, 0.0)


def make_slurm_spec(
    behavior: str = "succeed", ranks: int = 1, nodes: int = 1, cluster: Cluster | None = None, **slurm: Any
) -> RunSpec:
    """Of `ranks` on each of `nodes`."""
    spec = make_spec(behavior, ranks * nodes)
    layout = replace(spec.layout, nodes=nodes, procs_per_node=ranks)
    launcher = replace(spec.recipe.launcher, kind="slurm", slurm=Slurm(**slurm))
    return replace(
        spec, layout=layout, recipe=replace(spec.recipe, launcher=launcher, cluster=cluster or Cluster())
    )


def make_slurm_run(root: Path, spec: RunSpec) -> RunFolder:
    folder = make_run(root)
    folder.write_spec(spec)
    return folder


def submit_run(folder: RunFolder, facts: ClusterFacts = FACTS, attempt: int = 1) -> RunHandle:
    prepared = prepare(folder.read_spec(), folder, facts, attempt, SlurmLauncher())
    write_plan(prepared.plan, folder)
    return submit(prepared).handle
