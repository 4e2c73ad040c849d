"""A finite range may have billions of values: nothing lists them, in no backend and in no check."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError, Problem
from galley.schema import Hpo
from hpo.backends import make_backend
from hpo.backends.base import Search
from hpo.check import sweep_problems
from hpo.space.dimensions import read_space
from hpo.space.points import Grid, count_points, draw, enumerate_points, size_of
from hpo.study.values import Objective, Trial
from tests.support import make_recipe

SEEDS = "interval(0,4294967295)"  # 2 ** 32 values
SPACE = {"optim.betas": [[0.9, 0.99], [0.8, 0.9]], "seed": SEEDS}
CONDITIONAL: dict[str, Any] = {
    "strategy": ["ddp", "zero2"],
    "seed": {"choices": [1], "when": {"strategy": "zero2"}},
    "data.max_length": {"low": 1, "high": 2**40},
}
LOSS = (Objective("eval/loss", "minimize"),)


def problems(settings: Hpo) -> list[Problem]:
    return sweep_problems(make_recipe(hpo=settings, batch={"global_size": 8}, eval={"every_steps": 1}))


@pytest.mark.parametrize("space", [SPACE, CONDITIONAL], ids=["seeds", "conditional"])
@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        ("grid", None),
        ("random", None),
        ("optuna", None),
        ("optuna", "grid"),
        ("optuna", "nsga2"),
        ("ray", None),
    ],
)
def test_points_of_a_large_space_are_checked_and_drawn(
    kind: Any, sampler: Any, space: dict[str, Any], tmp_path: Path
) -> None:
    settings = Hpo(kind=kind, sampler=sampler, trials=14, space=space, objectives=["eval/loss"])
    assert not problems(settings)
    dims = read_space(space)
    backend = make_backend(Search("s", tmp_path, dims, LOSS, (), 3, settings), [])
    for number in range(14):  # TPE draws ten by chance, then by what it has learned
        params = backend.ask(number)
        assert params is not None
        assert params.keys() == {dim.key for dim in dims if dim.is_active(params)}
        values = {"eval/loss": float(number)}
        backend.tell(Trial(number, "succeeded", params, values, metrics=values))
    backend.close()


def test_a_gaussian_process_would_list_a_range(tmp_path: Path) -> None:
    settings = Hpo(kind="optuna", sampler="gp", trials=14)
    search = Search("s", tmp_path, read_space(SPACE), LOSS, (), 3, settings, dry=True)
    with pytest.raises(ConfigError, match="every value of a range in memory, of which 'seed'"):
        make_backend(search, [])


def test_a_grid_is_enumerated_as_far_as_it_is_asked_for() -> None:
    dims = read_space(SPACE)
    assert size_of(dims[1]) == 2**32
    grid = Grid(dims)
    assert grid.point(5) == {"optim.betas": [0.9, 0.99], "seed": 5}
    assert grid.point(2) == {"optim.betas": [0.9, 0.99], "seed": 2}
    small = read_space({"strategy": ["ddp", "zero2"], "data.max_length": "range(16, 65, 16)"})
    grid = Grid(small)
    assert [grid.point(index) for index in range(9)] == [*enumerate_points(small), None]


@pytest.mark.parametrize(
    ("space", "size"),
    [(SPACE, 2**33), ({"seed": "range(1,5)"}, 4), ({**CONDITIONAL, "data.max_length": [1]}, 2)],
)
def test_points_are_counted_no_further_than_needed(space: dict[str, Any], size: int) -> None:
    dims = read_space(space)
    assert count_points(dims, 3) == min(3, size)
    assert count_points(dims, 10**12) == size


@pytest.mark.parametrize("kind", ["grid", "optuna"])
def test_more_trials_than_a_grid_has_points_are_refused(kind: Any) -> None:
    sampler: Any = "grid" if kind == "optuna" else None
    settings = Hpo(kind, sampler=sampler, trials=5, space={"seed": "range(1,5)"}, objectives=["eval/loss"])
    (problem,) = problems(settings)
    assert problem.what == "5 trials, but the grid has 4 points"
    assert not problems(replace(settings, trials=4))


def test_draws_reach_both_halves_of_a_large_range() -> None:
    generator, dims = random.Random(0), read_space({"seed": SEEDS})
    drawn = [draw(dims, generator)["seed"] for _ in range(40)]
    assert min(drawn) < 2**31 < max(drawn)
