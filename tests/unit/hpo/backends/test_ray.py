"""Ray Tune's searcher behind the seam: any space, and the same history after a restart."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

import hpo.backends.ray as ray_backend
from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Hpo
from hpo.backends.base import Search
from hpo.study.values import Constraint, Objective, Params, SpaceDim, Trial

SPACE = (
    SpaceDim("optim.lr", "float", 1e-6, 1e-2, log=True),
    SpaceDim("strategy", "categorical", choices=("ddp", "fsdp")),
    SpaceDim("strategy.wrap", "categorical", choices=("layers", "size"), when={"strategy": ("fsdp",)}),
    SpaceDim("batch.global_size", "int", 8, 64, step=8),
    SpaceDim("optim.betas", "categorical", choices=([0.9, 0.99], [0.9, 0.999])),
)
SEARCH = Search(
    "s",
    Path("unused"),
    SPACE,
    (Objective("f1", "maximize"), Objective("cost", "minimize")),
    (),
    3,
    Hpo("ray"),
)


def test_bounds_that_the_searcher_would_not_learn_from_are_refused() -> None:
    for bounded in (
        replace(SEARCH, constraints=(Constraint("cost", max=1.0),)),
        replace(SEARCH, objectives=(Objective("f1", "maximize", 0.5),)),
    ):
        with pytest.raises(ConfigError, match="hpo=ray: cannot tell bounds"):
            ray_backend.RayBackend(bounded, [])


def ended(number: int, params: Params) -> Trial:
    if number % 7 == 3:
        return Trial(number, "failed", params)
    values = {"f1": params["optim.lr"], "cost": 1.0 / params["batch.global_size"]}
    return Trial(number, "succeeded", params, values, metrics=values)


def sweep(count: int) -> list[Trial]:
    backend = ray_backend.RayBackend(SEARCH, [])
    trials = []
    for number in range(count):
        params = backend.ask(number)
        assert params is not None
        trials.append(ended(number, params))
        backend.tell(trials[-1])
        backend.tell(trials[-1])
    assert backend.best() == front(trials)
    return trials


def front(trials: list[Trial]) -> tuple[int, ...]:
    """By comparing each with each."""
    losses = {t.number: (-t.values["f1"], t.values["cost"]) for t in trials if t.state == "succeeded"}
    beaten = {
        a
        for a, b in itertools.permutations(losses, 2)
        if losses[b] != losses[a] and losses[b][0] <= losses[a][0] and losses[b][1] <= losses[a][1]
    }
    return tuple(sorted(losses.keys() - beaten))


def test_points_are_of_the_space_and_equal_seeds_draw_equal_points() -> None:
    trials = sweep(20)
    for trial in trials:
        assert 1e-6 <= trial.params["optim.lr"] <= 1e-2
        assert trial.params["batch.global_size"] in range(8, 65, 8)
        assert trial.params["optim.betas"] in ([0.9, 0.99], [0.9, 0.999])
        assert ("strategy.wrap" in trial.params) == (trial.params["strategy"] == "fsdp")
    assert {trial.params["strategy"] for trial in trials} == {"ddp", "fsdp"}
    assert [trial.params for trial in sweep(20)] == [trial.params for trial in trials]


def test_a_new_controller_goes_on_from_the_journal() -> None:
    trials = sweep(12)
    living = Trial(12, "running", {**trials[0].params})
    backend = ray_backend.RayBackend(SEARCH, [*trials, living])
    assert backend.best() == front(trials)
    new = backend.ask(13)
    assert new not in [trial.params for trial in trials], "no draw is repeated"
    assert backend.ask(14, trials[5].params) == trials[5].params, "a repeat is noted"
    assert backend.ask(15) is not None
    backend.tell(ended(12, living.params))
    backend.tell(ended(14, trials[5].params))
    assert set(backend.best()) == set(front([*trials, ended(12, living.params), ended(14, trials[5].params)]))


def test_raytune_is_another_name_and_sigopt_is_gone() -> None:
    assert compose_recipe(["hpo=raytune"], []).hpo.kind == "ray"
    with pytest.raises(ConfigError, match="SigOpt's service has ended"):
        compose_recipe(["hpo=sigopt"], [])
