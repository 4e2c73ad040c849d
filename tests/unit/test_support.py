"""The factory for recipes of tests changes what it is told, and nothing else."""

from __future__ import annotations

import pytest

from galley.schema import Batch, Recipe
from tests.support import make_recipe


def test_a_mapping_changes_keys_and_another_value_is_the_section() -> None:
    base = make_recipe(data={"max_length": 8}, launcher={"env": {"A": "1"}}, batch=Batch(global_size=4))
    made = make_recipe(base, launcher={"torchrun": {"max_restarts": 9}, "env": {"B": "2"}}, seed=3)
    assert (made.data.max_length, made.batch.global_size, made.seed) == (8, 4, 3)
    assert made.launcher.torchrun.max_restarts == 9
    assert made.launcher.torchrun.backend == Recipe().launcher.torchrun.backend
    assert made.launcher.env == {"B": "2"}, "a mapping of the recipe is no section"
    assert base.launcher.env == {"A": "1"}


def test_a_key_that_there_is_not_is_an_error() -> None:
    with pytest.raises(AttributeError, match="max_lenght"):
        make_recipe(data={"max_lenght": 8})
