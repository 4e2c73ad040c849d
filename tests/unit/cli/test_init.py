"""`init` writes a project that runs, and nothing where something is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.init import FILES
from cli.main import main
from galley.config.compose import compose_recipe


def test_init_writes_a_project_whose_recipe_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "my project"
    assert main(["init", str(project)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"run it: cd '{project}' && galley recipe=mine"
    monkeypatch.chdir(project)
    assert {str(file.relative_to(project)) for file in project.rglob("*") if file.is_file()} == set(FILES)
    assert len((project / "README.md").read_text().splitlines()) == 5
    assert "runs/" in (project / ".gitignore").read_text().splitlines()
    assert main(["plan", "recipe=mine", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["run_dir"].startswith(str(project / "runs" / "mine-ddp-"))
    recipe = compose_recipe(["recipe=mine"], [project])
    assert (recipe.optim.lr, recipe.train.max_steps) == (1e-4, 20)  # quickstart's, and its own
    assert recipe.plugins == [str(project / "plugins")]


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
