"""Whatever starts the ranks of a run, each of them finds itself at the same place in the same world."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galley.schema import Launcher, Recipe
from galley.spec import CodeSnapshot, Layout, RunSpec
from tests.unit.launchers.clusters import CLUSTERS, Given
from trainer.hosts.rank_facts import read_rank_facts

# What every rank must have besides its place; the run folder of pods and of Slurm's test is another.
COMMON = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM",
    "GALLEY_ATTEMPT", "GALLEY_RESUME", "MINE",
)  # fmt: skip
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=("C",)) | st.just("\n"), max_size=8)


@dataclass(frozen=True)
class Fact:
    """All that a rank's part in a training depends on."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    node: int
    master_node: int | None
    global_size: int
    run: str
    variables: tuple[str | None, ...]


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    def number(most: int) -> int:
        return draw(st.integers(1, most))

    nodes, procs, micro, accumulation = number(3), number(3), number(4), number(3)
    world = nodes * procs
    layout = Layout(
        nodes, procs, world, "cpu", "gloo" if world > 1 else "none", number(4),
        micro * accumulation * world, micro, accumulation,
    )  # fmt: skip
    launcher = Launcher(env={"MINE": draw(VALUES)})
    recipe = Recipe(launcher=launcher, seed=draw(st.integers(0, 2**31)))
    return RunSpec(recipe, layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")


def fact(given: Given, spec: RunSpec) -> Fact:
    facts = read_rank_facts(given.environ)
    sha256 = given.command[list(given.command).index("--sha256") + 1]
    if facts.world_size > 1 and spec.layout.nodes > 1:
        assert facts.master.rpartition(":")[2].isdigit()
    return Fact(
        facts.rank, facts.world_size, facts.local_rank, facts.local_size, facts.node, given.met_on,
        facts.world_size * spec.layout.micro_size * spec.layout.accumulation, sha256,
        tuple(given.environ.get(name) for name in COMMON),
    )  # fmt: skip


def expected(spec: RunSpec, attempt: int, rank: int) -> Fact:
    layout = spec.layout
    variables = {
        "OMP_NUM_THREADS": str(layout.threads_per_proc), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "GALLEY_ATTEMPT": str(attempt),
        "MINE": spec.recipe.launcher.env["MINE"], **({"GALLEY_RESUME": "1"} if attempt > 1 else {}),
    }  # fmt: skip
    return Fact(
        rank, layout.world_size, rank % layout.procs_per_node, layout.procs_per_node,
        rank // layout.procs_per_node, 0 if layout.world_size > 1 else None, layout.global_size, "",
        tuple(variables.get(name) for name in COMMON),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERS)
@settings(max_examples=20)
@given(specs(), st.integers(1, 2))
def test_each_rank_of_a_plan_is_given_the_same_by_every_cluster(
    name: str, spec: RunSpec, attempt: int
) -> None:
    found = [fact(given, spec) for given in CLUSTERS[name](spec, attempt)]
    assert len({one.run for one in found}) == 1, "one sealed run: one seed, one data, one global batch"
    assert [replace(one, run="") for one in found] == [
        expected(spec, attempt, rank) for rank in range(spec.layout.world_size)
    ]
