"""Traps of YAML and of Hydra's grammar that cost people hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from tests.support import problems, user_recipe

BATCH = "batch:\n  global_size: 8\n"


def test_unquoted_no_is_false_in_yaml_and_is_refused_where_text_is_meant(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}data:\n  label_column: NO\n")
    (problem,) = problems("recipe=mine", user_dir=folder)
    assert problem.startswith(
        f"{tmp_path}/recipes/mine.yaml:4: data.label_column: false is not a valid value"
    )
    assert "quote it for text" in problem


def test_quoted_no_in_yaml_and_plain_no_on_the_command_line_are_text(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}data:\n  label_column: 'NO'\n")
    assert compose_recipe(["recipe=mine"], [folder]).data.label_column == "NO"
    assert compose_recipe(["data.label_column=NO"]).data.label_column == "NO"


def test_exponents_are_numbers_in_files_and_on_the_command_line(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}optim:\n  lr: 2e-5\n")
    assert compose_recipe(["recipe=mine"], [folder]).optim.lr == 2e-5
    assert compose_recipe(["optim.lr=2e-5"]).optim.lr == 2e-5


def test_duplicate_key_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}optim:\n  lr: 1e-4\n  lr: 1e-5\n")
    (problem,) = problems("recipe=mine", user_dir=folder)
    assert problem.startswith(f"{tmp_path}/recipes/mine.yaml:5: ")
    assert "duplicate key" in problem


def test_broken_yaml_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "batch: {global_size: 8\n")
    (problem,) = problems("recipe=mine", user_dir=folder)
    assert f"{tmp_path}/recipes/mine.yaml:2" in problem


def test_unquoted_comma_is_refused_with_the_quoting_that_works() -> None:
    (problem,) = problems("data.path=a,b")
    assert "several values where one is expected" in problem
    assert "data.path='\"a,b\"'" in problem


def test_comma_in_quotes_is_text() -> None:
    assert compose_recipe(["eval.enabled=false", 'data.label_column="a,b"']).data.label_column == "a,b"


def test_tilde_is_refused_with_a_reason() -> None:
    for override in ("~optim.lr", "~optim.lr=3", "data.path=~/x"):
        with pytest.raises(ConfigError):
            compose_recipe([override])


def test_bracketed_mask_is_a_list_and_is_refused_for_text() -> None:
    (problem,) = problems("launcher.env.I_MPI_PIN_DOMAIN=[0xfffffff0]")
    assert "is not a valid value" in problem


def test_numbers_become_text_in_environment_values() -> None:
    assert compose_recipe(["launcher.env.CCL_WORKER_COUNT=1"]).launcher.env == {"CCL_WORKER_COUNT": "1"}


def test_interpolation_that_leads_nowhere(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}seed: ${{nothing.here}}\n")
    (problem,) = problems("recipe=mine", user_dir=folder)
    assert "nothing.here" in problem
