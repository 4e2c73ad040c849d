"""`verify`: each kind of drift is found and told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cli.main import main
from galley.run.seal import seal, write_snapshot
from galley.run.verify import find_drift, record_data
from galley.rundir import RunFolder
from galley.schema import Batch, Data, Recipe
from galley.spec import ClusterFacts
from galley.strategy.layout import resolve_layout
from launchers import make_launcher
from launchers.lifecycle.launch import write_plan


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A sealed run that has read a folder of two files."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.csv", "dev.csv"):
        (data / name).write_text("text,label\na,0\n")
    recipe = Recipe(data=Data(path=str(data)), batch=Batch(global_size=8))
    folder = RunFolder(tmp_path / "run")
    spec = seal(recipe, resolve_layout(recipe, ClusterFacts("here", 0, 0.0, 1, 8.0)))
    write_snapshot(recipe, folder)
    folder.write_spec(spec)
    folder.write_data(record_data("f" * 64, recipe.data))
    return folder


def change_code(folder: RunFolder) -> None:
    (folder.code / "galley" / "errors.py").write_text("")


def change_config(folder: RunFolder) -> None:
    (folder.code / "conf" / "config.yaml").write_text("")


def change_packages(folder: RunFolder) -> None:
    spec = folder.read_spec()
    folder.write_spec(replace(spec, packages={**spec.packages, "torch": "0.1"}, python="2.7"))


def change_data(folder: RunFolder) -> None:
    data = Path(folder.read_spec().recipe.data.path or "")
    (data / "train.csv").write_text("text,label\na,1\n")
    (data / "dev.csv").unlink()
    (data / "train.json").write_text("[]")


def change_the_sealed_recipe(folder: RunFolder) -> None:
    for kind in ("local", "slurm", "ray"):
        spec = folder.read_spec()
        plan = make_launcher(kind).plan(spec, folder.root, ClusterFacts("here", 0, 0.0, 1, 8.0), 1)
        write_plan(plan, folder)
        assert find_drift(folder) == [], kind
    folder.write_spec(replace(spec, recipe=replace(spec.recipe, seed=7)))


CHANGES = {
    change_the_sealed_recipe: ["run.json was changed after the run was sealed"],
    change_code: ["code: the snapshot", "snapshot, which is what runs: galley/errors.py"],
    change_config: ["code: the snapshot", "config: this checkout differs"],
    change_packages: ["python: sealed with 2.7", "torch: sealed with 0.1"],
    change_data: ["dev.csv is gone", "train.csv was changed", "train.json was not there"],
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_drifted_is_named(folder: RunFolder, change: Callable[[RunFolder], None]) -> None:
    assert find_drift(folder) == []
    change(folder)
    found = find_drift(folder)
    assert len(found) == len(CHANGES[change])
    for line, expected in zip(found, CHANGES[change], strict=True):
        assert expected in line


@pytest.mark.slow
def test_the_command_ends_with_4_where_something_drifted(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(folder.root)]) == 0
    assert "no drift: code, config and packages are as sealed; data ffffffffffff" in capsys.readouterr().out
    change_data(folder)
    assert main(["verify", str(folder.root), "--json"]) == 4
    assert len(json.loads(capsys.readouterr().out)["drift"]) == 3
