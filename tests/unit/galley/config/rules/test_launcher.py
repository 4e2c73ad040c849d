"""Options that nothing reads beside others are refused: every row of the table, and what it lets pass."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from galley.config.rules.launcher import UNREAD, unread_problems, unread_warnings
from galley.schema import Launcher, Recipe
from tests.support import make_recipe

TRAINJOB = {"kind": "trainjob"}
RUNTIME = {**TRAINJOB, "runtime": "torch-distributed"}

# section, what is set in vain, other options of the section, those beside which it is read
CASES: list[tuple[str, str, Any, dict[str, Any], dict[str, Any]]] = [
    ("torchrun", "rendezvous", "a:29500", {}, {"nodes": 2}),
    ("torchrun", "rendezvous", "a:29500", {}, {"max_nodes": 2}),
    ("torchrun", "backend", "static", {}, {"nodes": 2}),
    ("torchrun", "min_nodes", 1, {}, {"max_nodes": 2}),
    ("torchrun", "max_restarts", 1, {}, {"max_nodes": 2}),
    ("torchrun", "last_call_s", 5, {}, {"max_nodes": 2}),
    ("mpi", "bind", "core", {"pin_masks": ["0x3"]}, {"pin_masks": []}),
    ("slurm", "container_runtime", "apptainer", {}, {"container_image": "a.sif"}),
    ("slurm", "container_mounts", ["/a:/b"], {}, {"container_image": "a.sif"}),
    ("slurm", "container_options", ["--writable-tmpfs"], {}, {"container_image": "a.sif"}),
    ("slurm", "container_python", "python", {}, {"container_image": "a.sif"}),
    ("slurm", "spare_constraint", "old", {}, {"spare_nodes": 1}),
    ("k8s", "min_nodes", 1, {}, {"max_nodes": 2}),
    ("k8s", "last_call_s", 5, {}, {"max_nodes": 2}),
    ("k8s", "min_nodes", 1, TRAINJOB, {"kind": "pytorchjob", "max_nodes": 2}),
    ("k8s", "max_nodes", 2, TRAINJOB, {"kind": "pytorchjob"}),
    ("k8s", "gang", "volcano", RUNTIME, TRAINJOB),
    ("k8s", "gang_timeout_s", 5, RUNTIME, {**TRAINJOB, "gang": "coscheduling"}),
    ("k8s", "scheduler", "mine", RUNTIME, TRAINJOB),
    ("k8s", "priority_class", "high", RUNTIME, TRAINJOB),
    ("k8s", "keep_s", 5, RUNTIME, TRAINJOB),
    ("k8s", "max_restarts", 5, RUNTIME, TRAINJOB),
    ("k8s", "image_pull_policy", "Always", RUNTIME, TRAINJOB),
    ("k8s", "env_from", [{"secretRef": {"name": "s"}}], RUNTIME, TRAINJOB),
    ("k8s", "topology_spread", [{"topologyKey": "zone"}], RUNTIME, TRAINJOB),
    ("k8s", "host_network", True, RUNTIME, TRAINJOB),
    ("k8s", "dns_policy", "Default", RUNTIME, TRAINJOB),
    ("k8s", "init_containers", [{"name": "fetch"}], RUNTIME, TRAINJOB),
    ("k8s", "sub_path", "me", {"claim": None}, {}),
    ("k8s", "clean_pods", "All", TRAINJOB, {}),
    ("k8s", "runtime", "torch-distributed", {}, TRAINJOB),
    ("k8s", "runtime_kind", "TrainingRuntime", {}, RUNTIME),
    ("k8s", "runtime_kind", "TrainingRuntime", TRAINJOB, RUNTIME),
    ("k8s", "gang_timeout_s", 5, {}, {"gang": "volcano"}),
    ("k8s", "gang_timeout_s", 5, {**TRAINJOB, "gang": "volcano"}, {"gang": "volcano"}),
    ("k8s", "claim_here", "/runs", {}, {"transport": "claim"}),
    ("k8s", "secret", "mine", {"forward_env": []}, {}),
]


def recipe(section: str, options: dict[str, Any]) -> Recipe:
    """`nodes` and `forward_env` belong to the whole recipe."""
    whole = {name: options[name] for name in ("forward_env",) if name in options}
    own = {name: value for name, value in options.items() if name not in ("forward_env", "nodes")}
    kind = {"torchrun": "local"}.get(section, section)
    launcher = {"kind": kind, section: own, **whole}
    return make_recipe(launcher=launcher, cluster={"nodes": options.get("nodes", 1)})


def told(section: str, options: dict[str, Any]) -> list[str]:
    return [problem.where for problem in unread_problems(recipe(section, options))]


@pytest.mark.parametrize(("section", "name", "value", "beside", "needed"), CASES)
def test_what_is_set_in_vain_is_refused(
    section: str, name: str, value: Any, beside: dict[str, Any], needed: dict[str, Any]
) -> None:
    assert told(section, {**beside, name: value}) == [f"launcher.{section}.{name}"]
    assert told(section, beside) == []
    assert told(section, {**needed, name: value}) == []


def test_every_row_has_a_case() -> None:
    named = {(section, name) for section, rows in UNREAD.items() for row in rows for name in row.names}
    assert named == {(section, name) for section, name, *_ in CASES}


def test_every_name_is_an_option() -> None:
    """And every launcher has a section, which may be empty."""
    sections = {
        f.name for f in fields(Launcher) if hasattr(getattr(Launcher(), f.name), "__dataclass_fields__")
    }
    assert set(UNREAD) == sections
    for section, rows in UNREAD.items():
        known = {f.name for f in fields(getattr(Launcher(), section))}
        assert {name for row in rows for name in row.names} <= known


def test_the_message_says_why_and_what_to_do() -> None:
    (problem,) = unread_problems(recipe("k8s", {**RUNTIME, "max_restarts": 5}))
    assert problem.what == "is set, but it belongs to the runtime, and 'torch-distributed' is there already"
    assert problem.hint == "set it in the runtime, or launcher.k8s.runtime=null"


def test_what_is_for_another_launcher_is_a_warning() -> None:
    """A recipe may describe several clusters."""
    found = recipe("k8s", {"max_nodes": 4, "claim": "runs"})
    assert unread_warnings(found) == []
    here = replace(found, launcher=replace(found.launcher, kind="slurm"))
    assert unread_warnings(here) == ["launcher=slurm does not read launcher.k8s: claim, max_nodes"]
    assert list(unread_problems(here)) == []
    limited = replace(Recipe(), cluster=replace(Recipe().cluster, time_limit_min=5))
    assert unread_warnings(limited) == [
        "launcher=local does not read cluster.time_limit_min: nothing ends the run"
    ]
