"""Each backend keeps the contract of the seam; W&B's has none, for its own agents draw and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.schema import Hpo
from hpo.backends import make_backend
from hpo.backends.base import Search
from tests.contract.hpo_backend_contract import OBJECTIVES, SPACE, HpoBackendContract


class TestRandom(HpoBackendContract):
    kind = "random"


class TestGrid(HpoBackendContract):
    kind = "grid"

    def test_a_grid_ends_with_its_last_point(self, tmp_path: Path) -> None:
        backend = self.make(tmp_path)
        assert len({str(trial.params) for trial in self.sweep(backend, 0, 48)}) == 48
        assert backend.ask(48) is None


class TestOptuna(HpoBackendContract):
    kind = "optuna"


class TestPbt(HpoBackendContract):
    kind = "pbt"
    objectives = OBJECTIVES[:1]


class TestRay(HpoBackendContract):
    kind = "ray"


def test_what_is_no_backend_is_named(tmp_path: Path) -> None:
    search = Search("study", tmp_path, SPACE, OBJECTIVES, (), 5, Hpo(kind="wandb"))
    with pytest.raises(ConfigError, match=r"hpo\.kind=wandb: 'wandb' is not known"):
        make_backend(search, [])
