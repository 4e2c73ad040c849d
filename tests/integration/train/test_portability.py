"""Saved under one strategy and world size, continued under another: the same curve, every sample once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint
from tests.integration.train import tiny
from trainer.checkpoints.manifest import list_checkpoints

SAVED_AT = 8
SHARD = "tensors-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def single(finished: Any) -> Any:
    """The uninterrupted reference."""
    return finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), TINY_DROPOUT="0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two DDP ranks, killed after they had saved step 8. Tests that change it take a copy."""
    root = tmp_path_factory.mktemp("saved")
    start(root, "ddp", 2)
    return root


def start(root: Path, strategy: str, world_size: int, trace: Path | None = None) -> None:
    """Train until the rank that is last dies in step 10, the checkpoint of step 8 being written."""
    recipe = tiny.tiny_recipe(strategy, checkpoint=Checkpoint(every_steps=SAVED_AT))
    traced = {"TINY_TRACE": str(trace)} if trace else {}
    spec = tiny.tiny_spec(recipe, world_size)
    assert tiny.run_ranks(root, spec, TINY_KILL="10", TINY_DROPOUT="0", **traced)[-1] == -9
    assert [folder.name for folder in list_checkpoints(root / "checkpoints")] == ["step-000008"]


def seen(trace: Path, steps: slice) -> Counter[int]:
    """How often each sample was in the losses of those steps, all ranks together; a line a step."""
    lines = [path.read_text().splitlines()[steps] for path in trace.parent.glob(f"{trace.name}.*")]
    return Counter(index for rank in lines for line in rank for index in json.loads(line))


@pytest.mark.parametrize(
    ("before", "ranks_before", "after", "ranks_after"),
    [
        ("ddp", 2, "zero3", 4),
        ("zero2", 2, "fsdp", 4),
        ("fsdp", 2, "ddp", 1),
        ("zero3_offload", 2, "zero2", 1),
        ("fsdp_hybrid", 4, "zero1", 1),
    ],
)
def test_the_curve_continues_and_every_sample_counts_once(
    tmp_path: Path, single: Any, before: str, ranks_before: int, after: str, ranks_after: int
) -> None:
    start(tmp_path / "first", before, ranks_before, tmp_path / "trace-first")
    recipe = tiny.tiny_recipe(after, checkpoint=Checkpoint(resume_from=str(tmp_path / "first")))
    spec = tiny.tiny_spec(recipe, ranks_after)
    trace = tmp_path / "trace-second"
    folder = tiny.train(tmp_path / "second", spec, TINY_DROPOUT="0", TINY_TRACE=str(trace))
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single)[SAVED_AT:], abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    assert folder.read_result().resumed_from == str(tmp_path / "first/checkpoints/step-000008")
    counts = seen(tmp_path / "trace-first", slice(SAVED_AT)) + seen(trace, slice(None))
    assert counts == dict.fromkeys(range(70), 2)


def resume(root: Path, source: Path, **changes: Any) -> list[int | None]:
    recipe = tiny.tiny_recipe("single", checkpoint=Checkpoint(every_steps=4, resume_from=str(source)))
    return tiny.run_ranks(root, tiny.tiny_spec(replace(recipe, **changes), 1), TINY_DROPOUT="0")


def copy(saved: Path, target: Path) -> Path:
    """The checkpoint, with files of its own that may be damaged."""
    folder = target / "checkpoints" / "step-000008"
    folder.mkdir(parents=True)
    for file in (saved / "checkpoints" / "step-000008").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("named", ["checkpoint", "run"])
@pytest.mark.parametrize("damage", ["flipped", "missing", "other model"])
def test_a_checkpoint_that_is_not_right_is_refused_by_its_file(
    tmp_path: Path, saved: Path, damage: str, named: str
) -> None:
    folder = copy(saved, tmp_path / "source")
    shard = folder / SHARD
    if damage == "missing":
        shard.unlink()
    elif damage == "flipped":
        content = bytearray(shard.read_bytes())
        content[-9] ^= 1
        shard.write_bytes(content)
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))
    before = contents(tmp_path / "source")
    assert resume(tmp_path / "new", folder if named == "checkpoint" else tmp_path / "source") == [4]
    (error,) = tiny.RunFolder(tmp_path / "new").read_rank_errors(1)
    assert error.failure_class == "checkpoint"
    assert ("manifest.json" if damage == "other model" else SHARD) in error.message
    assert "step-000008" in error.message
    assert contents(tmp_path / "source") == before
    assert not list_checkpoints(tmp_path / "new" / "checkpoints")


@pytest.mark.parametrize("name", ["nowhere", "nowhere/checkpoints/step-000004"])
def test_a_path_without_a_checkpoint_is_a_mistake_of_the_request(tmp_path: Path, name: str) -> None:
    assert resume(tmp_path / "new", tmp_path / name) == [2]
    (error,) = tiny.RunFolder(tmp_path / "new").read_rank_errors(1)
    assert f"checkpoint.resume_from={tmp_path / name}: there is no" in error.message


def test_another_seed_is_refused(tmp_path: Path, saved: Path) -> None:
    assert resume(tmp_path / "new", saved, seed=8) == [4]


def test_the_run_s_own_checkpoints_come_first(tmp_path: Path, saved: Path) -> None:
    recipe = tiny.tiny_recipe("single", checkpoint=Checkpoint(every_steps=4, resume_from=str(saved)))
    spec = tiny.tiny_spec(recipe, 1)
    quiet = {"TINY_DROPOUT": "0"}
    assert tiny.run_ranks(tmp_path, spec, TINY_KILL="6", **quiet) == [-9]
    folder = tiny.train(tmp_path, spec, attempt=2, **quiet)
    assert folder.read_result().resumed_from == "step-000012"
    assert [row["step"] for row in folder.read_metrics() if "loss" in row] == list(range(9, 19))
