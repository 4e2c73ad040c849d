"""The folder of a project: recipes and options are found there, and hide nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.main import main
from cli.options import Options, parse_arguments
from cli.recipes import recipe_files
from galley.config.compose import compose_recipe, explain_sources
from galley.config.project import config_dir_option
from galley.errors import ConfigError
from tests.support import REPO


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project, which is the current folder."""
    folder = tmp_path / "my project"
    assert main(["init", str(folder)]) == 0
    monkeypatch.chdir(folder)
    return folder


def test_a_project_has_recipes_in_recipes_and_options_in_conf(project: Path) -> None:
    _, sources = explain_sources(["recipe=mine"], "data.max_length", [project])
    assert sources[-1].where == f"{project}/conf/data/mine.yaml:3"
    assert recipe_files(Options(config_dirs=(project,)))["mine"] == project / "recipes" / "mine.yaml"
    (project / "data").mkdir()  # such as the rows of its own files
    (project / "data" / "elsewhere.yaml").write_text("max_length: 7\n")
    with pytest.raises(ConfigError, match="'elsewhere' is not a data"):
        compose_recipe(["data=elsewhere"], [project])
    assert compose_recipe(["data=mine"], [project]).data.max_length == 32


def test_the_current_project_is_found_once_and_a_checkout_is_none(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_arguments(["plan"], ["plan"])[2].config_dirs == (project,)
    assert parse_arguments(["--config-dir", "."], [])[2].config_dirs == (Path(),)
    assert config_dir_option(Path()) == ""
    monkeypatch.chdir(REPO)
    assert parse_arguments(["plan"], ["plan"])[2].config_dirs == ()
    assert config_dir_option(project) == f"--config-dir '{project}' "


@pytest.mark.parametrize("place", ["conf/optim/adamw.yaml", "recipes/quickstart.yml", "conf/config.yaml"])
def test_no_file_of_a_project_hides_a_shipped_one(project: Path, place: str) -> None:
    (project / place).parent.mkdir(exist_ok=True)
    (project / place).write_text("lr: 1\n")
    with pytest.raises(ConfigError, match="has the name of the shipped"):
        compose_recipe([], [project])


def test_runs_of_a_project_are_not_read_for_options(project: Path) -> None:
    copy = project / "runs" / "a" / "code" / "conf" / "optim" / "adamw.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text("lr: 1\n")
    assert compose_recipe(["recipe=mine"], [project]).optim.lr == 1e-4
