"""Sealing: equal inputs give equal names, and a changed seal is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.run.seal import code_files, default_run_dir, seal, snapshot_sha256, write_snapshot
from galley.rundir import RunFolder, write_atomic
from galley.schema import Batch, Precision, Recipe
from galley.spec import RunResult, RunSpec, from_json, to_json
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU

RECIPE = Recipe(batch=Batch(global_size=32))


def sealed(recipe: Recipe = RECIPE) -> RunSpec:
    return seal(recipe, resolve_layout(recipe, CPU))


def test_the_name_is_the_hash_of_the_file(tmp_path: Path) -> None:
    folder, spec = RunFolder(tmp_path), sealed()
    folder.write_spec(spec)
    assert folder.read_spec(spec.sha256) == spec
    assert from_json(RunSpec, to_json(spec)) == spec


def test_equal_runs_have_equal_names_and_others_do_not() -> None:
    assert sealed().sha256 == sealed().sha256
    assert sealed(replace(RECIPE, seed=7)).sha256 != sealed().sha256
    assert sealed(replace(RECIPE, run_dir="elsewhere", detach=True)).sha256 == sealed().sha256


def test_a_sealed_run_says_which_precision_the_devices_have() -> None:
    recipe = replace(RECIPE, precision=Precision(compute="auto"))
    assert sealed(recipe).recipe.precision.compute == "fp32"
    assert sealed(recipe).sha256 == sealed().sha256
    ampere = replace(CPU, gpus=2, gpu_memory_gib=24, bf16=True)
    assert seal(recipe, resolve_layout(recipe, ampere)).recipe.precision.compute == "bf16"


def test_a_changed_run_json_is_refused(tmp_path: Path) -> None:
    folder, spec = RunFolder(tmp_path), sealed()
    folder.write_spec(replace(spec, python="2.7"))
    with pytest.raises(ConfigError, match="was changed after the run was sealed"):
        folder.read_spec(spec.sha256)


def test_the_snapshot_is_the_program(tmp_path: Path) -> None:
    folder, spec = RunFolder(tmp_path), sealed()
    write_snapshot(spec.recipe, folder)
    assert (folder.code / "galley" / "spec.py").exists()
    assert not (folder.code / "tests").exists()
    assert snapshot_sha256(folder) == spec.code.sha256
    (folder.code / "galley" / "spec.py").write_text("")
    assert snapshot_sha256(folder) != spec.code.sha256


def test_plugin_folders_are_part_of_the_snapshot(tmp_path: Path) -> None:
    plugin = tmp_path / "mine"
    plugin.mkdir()
    (plugin / "task.py").write_text("x = 1\n")
    recipe = replace(RECIPE, plugins=[str(plugin)])
    assert "plugins/0/task.py" in code_files(recipe)
    before = sealed(recipe).code.sha256
    (plugin / "task.py").write_text("x = 2\n")
    assert sealed(recipe).code.sha256 != before


def test_default_run_folders_do_not_collide(tmp_path: Path) -> None:
    spec = sealed()
    first = default_run_dir(spec, tmp_path)
    assert first.name == f"quickstart-ddp-{spec.sha256[:8]}"
    first.mkdir()
    assert default_run_dir(spec, tmp_path).name == f"{first.name}-2"


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "\udcff")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", "text")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_metrics_survive_a_killed_writer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1, "loss": 0.5})
    with folder.metrics_file.open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert list(folder.read_metrics()) == [{"step": 1, "loss": 0.5}]


def test_a_result_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_result() is None
    folder.write_result(RunResult(state="succeeded", exit_code=0))
    assert folder.read_result() == RunResult(state="succeeded", exit_code=0)
    folder.result_file.write_text("{")
    with pytest.raises(ConfigError, match=r"result\.json.*cannot be read as RunResult"):
        folder.read_result()
