"""The local plan, frozen in a golden file; reading torchrun's report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.registry import LAUNCHERS
from galley.schema import Torchrun
from galley.spec import RunSpec, to_json
from launchers import make_launcher
from launchers.base import Launcher
from launchers.local.launcher import LocalLauncher, rendezvous_problems
from tests.integration.local.standin import FACTS, make_spec
from tests.support import REPO

GOLDEN = REPO / "tests/golden/local"
RUN_DIR = Path('/runs/it\'s "here" $HOME')


@pytest.mark.parametrize(
    ("name", "ranks", "attempt"), [("one-rank", 1, 1), ("two-ranks", 2, 1), ("resumed", 2, 2)]
)
def test_the_plan_is_as_recorded(name: str, ranks: int, attempt: int) -> None:
    spec = make_spec(ranks=ranks, MINE="a 'b' $c")
    plan = LocalLauncher(python="python").plan(spec, RUN_DIR, FACTS, attempt)
    text = to_json(plan).replace(spec.sha256, "SHA256")
    assert text == (GOLDEN / f"{name}.json").read_text()


def test_the_users_variables_win() -> None:
    plan = LocalLauncher().plan(make_spec(OMP_WAIT_POLICY="ACTIVE"), RUN_DIR, FACTS, 1)
    assert plan.env["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_path_that_pythonpath_cannot_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="PYTHONPATH cannot carry"):
        LocalLauncher().plan(make_spec(), Path("/runs/a:b"), FACTS, 1)


@pytest.mark.parametrize("name", [*LAUNCHERS.built_in, *LAUNCHERS.hidden])
def test_every_registered_launcher_can_be_made(name: str) -> None:
    assert isinstance(make_launcher(name), Launcher)


def test_an_unknown_launcher_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        make_launcher("loacl")


def on_machines(nodes: int, **torchrun: Any) -> RunSpec:
    spec = make_spec()
    recipe = replace(
        spec.recipe,
        launcher=replace(spec.recipe.launcher, torchrun=Torchrun(rendezvous="a:29500", **torchrun)),
        cluster=replace(spec.recipe.cluster, nodes=nodes),
    )
    return replace(spec, recipe=recipe, layout=replace(spec.layout, nodes=nodes, procs_per_node=1))


def test_an_elastic_run_has_bounds_and_goes_on_from_its_checkpoint() -> None:
    plan = LocalLauncher().plan(on_machines(2, min_nodes=1, max_nodes=4), RUN_DIR, FACTS, 1)
    assert {"--nnodes=1:4", "--max-restarts=3"} < set(plan.argv)
    assert (plan.env["GALLEY_ELASTIC"], plan.env["GALLEY_RESUME"]) == ("1", "1")
    assert "--rdzv-conf=is_host=1,join_timeout=300" in plan.argv, "the rest is what torchrun does anyway"
    hasty = LocalLauncher().plan(on_machines(2, max_nodes=4, last_call_s=400), RUN_DIR, FACTS, 1)
    assert "--rdzv-conf=is_host=1,join_timeout=490,last_call_timeout=400" in hasty.argv
    fixed = LocalLauncher().plan(on_machines(2), RUN_DIR, FACTS, 1)
    assert {"--nnodes=2", "--max-restarts=0"} < set(fixed.argv)
    assert not {"GALLEY_ELASTIC", "GALLEY_RESUME"} & set(fixed.env)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_nodes": 3, "max_nodes": 4}, "2 is not within 3 … 4"),
        ({"max_nodes": 4, "backend": "static"}, "an elastic run needs c10d"),
    ],
)
def test_bounds_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalLauncher().facts(on_machines(2, **options).recipe)


@pytest.mark.parametrize(("port", "exists"), [(1, True), (65535, True), (0, False), (65536, False)])
def test_the_port_of_the_rendezvous_exists(port: int, exists: bool) -> None:
    spec = on_machines(2)
    launcher = replace(spec.recipe.launcher, torchrun=Torchrun(rendezvous=f"a:{port}"))
    problems = list(rendezvous_problems(replace(spec.recipe, launcher=launcher)))
    assert [problem.where for problem in problems] == ([] if exists else ["launcher.torchrun.rendezvous"])


def test_threads_follow_the_layout() -> None:
    spec = make_spec()
    spec = replace(spec, layout=replace(spec.layout, threads_per_proc=7))
    assert LocalLauncher().plan(spec, RUN_DIR, FACTS, 1).env["OMP_NUM_THREADS"] == "7"
