"""Optuna's own tests of storages and samplers, on what is made here; and what it cannot express."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.testing.pytest_storages import StorageTestCase

from galley.errors import ConfigError
from galley.schema import Hpo
from hpo.backends.optuna import storage_url
from hpo.backends.optuna_samplers import check_sampler, make_sampler, population
from hpo.backends.optuna_storage import open_storage
from hpo.base import Search
from hpo.space import read_space
from hpo.values import Objective

OBJECTIVES = (Objective("eval/f1", "maximize"), Objective("wall_s", "minimize"))


def make_search(folder: Path, space: dict[str, Any], objectives: int = 2, **settings: Any) -> Search:
    hpo = Hpo(kind="optuna", **settings)
    return Search("study", folder, read_space(space), OBJECTIVES[:objectives], (), 1, hpo)


class TestStorage(StorageTestCase):
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
class TestSampler(Sampled, BasicSamplerTestCase):
    pass


@pytest.mark.parametrize("sampler", ["cmaes"], indirect=True)
class TestRelativeSampler(Sampled, RelativeSamplerTestCase):
    """Without GP: as a sweep makes it, its first ten points are random ones."""


@pytest.mark.parametrize("sampler", [None, "nsga2", "nsga3", "gp", "random"], indirect=True)
class TestMultiObjectiveSampler(Sampled, MultiObjectiveSamplerTestCase):
    pass


@pytest.mark.parametrize("sampler", ["cmaes"], indirect=True)
class TestSingleOnlySampler(Sampled, SingleOnlySamplerTestCase):
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
