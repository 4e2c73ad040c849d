"""Optuna's own tests of storages and samplers, on what is made here; and what it cannot express."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from galley.errors import ConfigError
from galley.schema import Hpo
from hpo.backends.base import Search
from hpo.backends.optuna import OptunaBackend, storage_url
from hpo.backends.optuna_samplers import check_sampler, make_sampler, population
from hpo.backends.optuna_storage import open_storage
from hpo.space.dimensions import read_space
from hpo.study.values import Constraint, Objective, Trial

# Optuna has shipped them since 5.0.
samplers = pytest.importorskip("optuna.testing.pytest_samplers")
storages = pytest.importorskip("optuna.testing.pytest_storages")

OBJECTIVES = (Objective("eval/f1", "maximize"), Objective("wall_s", "minimize"))


def make_search(folder: Path, space: dict[str, Any], objectives: int = 2, **settings: Any) -> Search:
    hpo = Hpo(kind="optuna", **settings)
    return Search("study", folder, read_space(space), OBJECTIVES[:objectives], (), 1, hpo)


class TestStorage(storages.StorageTestCase):
    """The file of a study's folder, behind the kernel's lock."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> BaseStorage:
        return open_storage(None, tmp_path)


class Sampled:
    """A sampler as a sweep makes it."""

    @pytest.fixture
    def sampler(self, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BaseSampler]:
        search = make_search(tmp_path, {"seed": {"low": 1, "high": 9}}, 1, sampler=request.param)
        return lambda: make_sampler(search, random.Random(0))


@pytest.mark.parametrize("sampler", [None, "nsga2", "nsga3", "gp", "cmaes", "random"], indirect=True)
class TestSampler(Sampled, samplers.BasicSamplerTestCase):
    pass


@pytest.mark.parametrize("sampler", ["cmaes"], indirect=True)
class TestRelativeSampler(Sampled, samplers.RelativeSamplerTestCase):
    """Without GP: as a sweep makes it, its first ten points are random ones."""


@pytest.mark.parametrize("sampler", [None, "nsga2", "nsga3", "gp", "random"], indirect=True)
class TestMultiObjectiveSampler(Sampled, samplers.MultiObjectiveSamplerTestCase):
    pass


@pytest.mark.parametrize("sampler", ["cmaes"], indirect=True)
class TestSingleOnlySampler(Sampled, samplers.SingleOnlySamplerTestCase):
    pass


def test_file_that_a_killed_writer_left_is_repaired(tmp_path: Path) -> None:
    first = open_storage(None, tmp_path)
    study = first.create_new_study([])
    with (tmp_path / "optuna.log").open("a") as stream:
        stream.write('{"op_code": 4, "worker')
    again = open_storage(None, tmp_path)
    again.create_new_trial(study)
    assert len(open_storage(None, tmp_path).get_all_trials(study)) == 1


def test_broken_line_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    open_storage(None, tmp_path).create_new_study([])
    path = tmp_path / "optuna.log"
    path.write_text("garbage\n" + path.read_text())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"optuna.log: cannot be read.*\n.*written again"):
        open_storage(None, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("sampler", "space", "objectives", "complaint"),
    [
        ("cmaes", {"seed": {"low": 1, "high": 9}}, 2, "one objective"),
        ("cmaes", {"seed": [1, 2]}, 1, "no choices"),
        ("grid", {"optim.lr": {"low": 1e-5, "high": 1e-3}}, 1, "continuous"),
        (
            "gp",
            {"strategy": ["ddp"], "seed": {"choices": [1], "when": {"strategy": "ddp"}}},
            1,
            "no conditions",
        ),
    ],
)
def test_what_a_sampler_cannot_express_is_an_error(
    sampler: str, space: dict[str, Any], objectives: int, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_sampler(make_search(tmp_path, space, objectives, sampler=sampler))


def bounded(tmp_path: Path, sampler: str | None, space: dict[str, Any]) -> Search:
    search = make_search(tmp_path, space, 1, sampler=sampler, trials=20)
    return replace(search, constraints=(Constraint("wall_s", max=0.6), Constraint("eval/accuracy", min=0.1)))


@pytest.mark.parametrize("sampler", [None, "nsga2", "nsga3", "gp"])
def test_samplers_learn_from_constraints_which_every_trial_states_in_full(
    tmp_path: Path, sampler: str | None
) -> None:
    """Where F1 is best, the constraint is not kept. The Gaussian process begins to draw at its 11th point,
    and wants all constraints of all trials, kept or not; a new controller has the same ones."""
    search = bounded(tmp_path, sampler, {"optim.lr": {"low": 0.0, "high": 1.0}})
    backend, trials, count = OptunaBackend(search, []), [], 13
    for number in range(count):
        if number == 12:
            backend.close()
            backend = OptunaBackend(search, trials)
        params = backend.ask(number)
        assert params is not None
        rate = params["optim.lr"]
        metrics = {"eval/f1": rate, "wall_s": rate, "eval/accuracy": 0.5}
        ended = Trial(number, "succeeded", params, {"eval/f1": rate}, metrics=metrics, feasible=rate <= 0.6)
        trials.append(ended if number != 5 else Trial(number, "infeasible", params))
        backend.tell(trials[-1])
    stored = backend._study.get_trials()
    for trial, known in zip(trials, stored, strict=True):
        if trial.state == "succeeded":
            wanted = {"wall_s": trial.metrics["wall_s"] - 0.6, "eval/accuracy": 0.1 - 0.5}
            assert known.constraints == pytest.approx(wanted)
    backend.close()


def test_a_sampler_that_ignores_constraints_is_refused(tmp_path: Path) -> None:
    space = {"optim.lr": {"low": 0.0, "high": 1.0}}
    with pytest.raises(ConfigError, match=r"cmaes: does not learn from bounds(.|\n)*valid: tpe, nsga2"):
        check_sampler(bounded(tmp_path, "cmaes", space))
    search = make_search(tmp_path, space, 1, sampler="cmaes")
    bound = (replace(OBJECTIVES[0], bound=0.5),)
    with pytest.raises(ConfigError, match="does not learn from bounds"):
        check_sampler(replace(search, objectives=bound))
    check_sampler(search)


def test_population_leaves_generations_to_evolve(tmp_path: Path) -> None:
    sizes = [population(make_search(tmp_path, {"seed": [1, 2]}, trials=n)) for n in (4, 20, 1000)]
    assert sizes == [2, 5, 50]


def test_password_never_enters_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="password"):
        storage_url("postgresql://me:secret@host/db")
    monkeypatch.setenv("STUDY_DB", "postgresql://me:secret@host/db")
    assert storage_url("env:STUDY_DB") == "postgresql://me:secret@host/db"
    with pytest.raises(ConfigError, match="NOWHERE is not set"):
        storage_url("env:NOWHERE")
