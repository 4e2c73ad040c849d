"""`init` and the folder that it writes: recipes and options are found there, and hide nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.init import FILES
from cli.main import main
from cli.options import Options, parse_arguments
from cli.recipes import recipe_files
from galley.config.compose import compose_recipe, explain_sources
from galley.config.project import config_dir_option
from galley.errors import ConfigError
from tests.support import REPO


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A new project, which is the current folder."""
    folder = tmp_path / "my project"
    assert main(["init", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"run it: cd '{folder}' && galley recipe=mine"
    monkeypatch.chdir(folder)
    return folder


def test_init_writes_a_project_whose_recipe_can_be_planned(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {str(file.relative_to(project)) for file in project.rglob("*") if file.is_file()} == set(FILES)
    assert len((project / "README.md").read_text().splitlines()) == 5
    assert "runs/" in (project / ".gitignore").read_text().splitlines()
    assert main(["plan", "recipe=mine", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["run_dir"].startswith(str(project / "runs" / "mine-ddp-"))
    recipe = compose_recipe(["recipe=mine"], [project])
    assert (recipe.optim.lr, recipe.train.max_steps) == (1e-4, 20)  # quickstart's, and its own
    assert recipe.plugins == [str(project / "plugins")]


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


def test_init_refuses_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("kept")
    for words, what in {
        (str(tmp_path),): "is not empty, it has a.txt\n",
        (str(tmp_path / "a.txt"),): "is a file\n      choose a new folder",
        (): "takes one folder",
        ("a", "b"): "takes one folder",
        ("recipe=mine",): "takes one folder",
    }.items():
        assert main(["init", *words]) == 2
        assert what in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_repository_without_files_may_become_a_project(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert main(["init", str(tmp_path), "--json"]) == 0
    assert (tmp_path / "recipes" / "mine.yaml").is_file()
