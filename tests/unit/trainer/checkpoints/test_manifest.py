"""Complete, cut, changed and missing checkpoint files; retention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galley.errors import CheckpointError
from galley.rundir import checkpoint_name
from trainer.checkpoints.manifest import (
    Manifest,
    fingerprint,
    latest_complete,
    list_checkpoints,
    record,
    retain,
    verify,
    write_manifest,
)
from trainer.checkpoints.store import share_out


def make_checkpoint(root: Path, step: Any) -> Path:
    folder = root / checkpoint_name(step)
    folder.mkdir(parents=True)
    for name in ("tensors-00000-of-00001.safetensors", "state.json"):
        (folder / name).write_bytes(f"{name} of {step}".encode() * 50)
    files = {path.name: record(path) for path in folder.iterdir()}
    write_manifest(folder, Manifest("f" * 64, 1, files))
    return folder


def damage(folder: Path, how: Any) -> None:
    target = folder / "tensors-00000-of-00001.safetensors"
    content = bytearray(target.read_bytes())
    if how == "cut":
        target.write_bytes(content[:-1])
    elif how == "flipped":
        content[100] ^= 1
        target.write_bytes(content)
    elif how == "missing":
        target.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "cut manifest":
        manifest = folder / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:40])
    elif how == "state":
        (folder / "state.json").write_text("{}")


def test_what_was_written_is_complete(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 7)
    assert verify(folder).world_size == 1
    assert latest_complete(tmp_path).folder == folder


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "no manifest", "cut manifest", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, how: Any) -> None:
    older = make_checkpoint(tmp_path, 999_999)
    newer = make_checkpoint(tmp_path, 1_000_000)
    damage(newer, how)
    with pytest.raises(CheckpointError, match="step-1000000"):
        verify(newer)
    found = latest_complete(tmp_path)
    assert found.folder == older
    assert len(found.rejected) == 1
    assert "step-1000000" in found.rejected[0]


def test_without_a_complete_one_there_is_none(tmp_path: Path) -> None:
    assert latest_complete(tmp_path / "never").folder is None
    damage(make_checkpoint(tmp_path, 3), "cut")
    assert latest_complete(tmp_path).folder is None


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in (9, 10, 1_000_000, 11):
        make_checkpoint(tmp_path, step)
    (tmp_path / ".step-000012").mkdir()
    retain(tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000011", "step-1000000"]
    assert not (tmp_path / ".step-000012").exists()


def test_the_fingerprint_knows_names_and_shapes() -> None:
    same = fingerprint({"a": (2, 3), "b": (4,)})
    assert same == fingerprint({"b": (4,), "a": (2, 3)})
    assert len({same, fingerprint({"a": (3, 2), "b": (4,)}), fingerprint({"a": (2, 3), "c": (4,)})}) == 3


def test_every_tensor_has_one_owner_and_the_load_is_even() -> None:
    sizes = {f"layer.{i}": 10 + i for i in range(40)}
    owners = share_out(sizes, 3)
    assert owners.keys() == sizes.keys()
    loads = [sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(3)]
    assert max(loads) - min(loads) <= 50
    assert share_out(sizes, 3) == owners
