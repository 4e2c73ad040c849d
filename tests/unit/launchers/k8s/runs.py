"""Sealed runs for planning, whose layout is that of a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from galley.schema import K8s, Recipe
from galley.spec import ClusterFacts, CodeSnapshot, LaunchPlan, Layout, RunSpec
from launchers.k8s.launcher import MANIFEST, K8sLauncher
from launchers.k8s.manifest.yaml_text import from_yaml

FACTS = ClusterFacts("a node", 0, 0.0, 4, 0.0)
RUN_DIR = Path("/runs/quickstart-ddp-0123abcd")
Object = dict[str, Any]


def make_spec(
    k8s: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    nodes: int = 2,
    procs: int = 2,
    device: str = "cpu",
    **launcher: Any,
) -> RunSpec:
    """A recipe of all defaults but these."""
    recipe = Recipe()
    mine = replace(recipe.launcher, kind="k8s", k8s=K8s(**(k8s or {})), **launcher)
    recipe = replace(recipe, launcher=mine, cluster=replace(recipe.cluster, nodes=nodes, **(cluster or {})))
    world = nodes * procs
    backend = "none" if world == 1 else "nccl" if device == "cuda" else "gloo"
    layout = Layout(nodes, procs, world, device, backend, 2, 8 * world, 8, 1)  # type: ignore[arg-type]
    return RunSpec(recipe, layout, CodeSnapshot("c" * 64, None, False), {"torch": "2.13.0"}, "3.11.7")


def plan(spec: RunSpec, attempt: int = 1, run_dir: Path = RUN_DIR, facts: ClusterFacts = FACTS) -> LaunchPlan:
    return K8sLauncher().plan(spec, run_dir, facts, attempt)


def objects(spec: RunSpec, **arguments: Any) -> list[Object]:
    return from_yaml(plan(spec, **arguments).files[MANIFEST])


def job_of(spec: RunSpec, **arguments: Any) -> Object:
    return objects(spec, **arguments)[-1]


def pod_of(job: Object) -> Object:
    """The pod of a PyTorchJob's first role."""
    role = next(iter(job["spec"]["pytorchReplicaSpecs"].values()))
    return dict(role["template"]["spec"])


def value_of(body: Any, path: str) -> Any:
    """`spec.containers[0].name`."""
    for part in path.replace("[", ".[").split("."):
        body = body[int(part[1:-1])] if part.startswith("[") else body[part]
    return body
