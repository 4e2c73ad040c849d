"""The manifest, which makes a checkpoint complete, and the search for the newest complete checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galley.errors import CheckpointError
from galley.rundir import checkpoint_name, write_atomic
from galley.spec import from_json, to_json

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        fingerprint: of the model whose state it is.
        files: the record of each file, by name.
        frozen_sha256: hash of the weights that are not trained, which the checkpoint does not hold.
    """

    fingerprint: str
    world_size: int
    files: dict[str, FileRecord]
    version: int = 1
    frozen_sha256: str = ""


@dataclass(frozen=True)
class Kept:
    """The best evaluation so far, whose checkpoint is kept (`checkpoint.keep_best`).

    Attributes:
        value: the value of `metric`; `metrics` are all of that evaluation.
        folder: the checkpoint's folder, if it is another run's; empty for the run's own.
    """

    step: int
    metric: str
    value: float
    metrics: dict[str, float]
    folder: str = ""


@dataclass(frozen=True)
class TrainState:
    """The state of training after `step` optimizer steps.

    Attributes:
        epoch, batch: of the next global batch; they follow from `step` and are kept for readers.
        optimizer_steps: the number of steps that changed the weights.
        best, misses: of early stopping by the metric `watched`: the best value so far, evaluations since it.
        kept: the best evaluation; None without `checkpoint.keep_best`.
        data_fingerprint: of the training samples, to whose order the position refers.
        stream: where the next sample begins, if the samples are a stream.
    """

    step: int
    epoch: int
    batch: int
    seed: int
    global_size: int
    total_steps: int
    optimizer_steps: int
    loss_scale: float
    loss_scale_good_steps: int
    loss_scale_overflows: int
    data_fingerprint: str
    best: float | None = None
    misses: int = 0
    watched: str = ""
    kept: Kept | None = None
    stream: Any = None


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole, and a line for each newer one that is not."""

    folder: Path | None
    rejected: list[str] = field(default_factory=list)


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the sha256 of the sorted parameter names and shapes."""
    lines = (f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def record(path: Path) -> FileRecord:
    """Return size and hash of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomic(folder / MANIFEST_NAME, to_json(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint. Raises `CheckpointError` if it is missing or unreadable."""
    path = folder / MANIFEST_NAME
    try:
        return from_json(Manifest, path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST_NAME} is missing or unreadable") from error


def read_state(folder: Path) -> TrainState:
    return from_json(TrainState, (folder / STATE_NAME).read_bytes())


def verify(folder: Path) -> Manifest:
    """Read every byte.

    Raises `CheckpointError` that names the first file that differs from what was saved.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder.name}: {name} is missing")
        if path.stat().st_size != expected.size:
            raise CheckpointError(f"{folder.name}: {name} has {path.stat().st_size} of {expected.size} bytes")
        if record(path) != expected:
            raise CheckpointError(
                f"{folder.name}: {name} was changed, its sha256 is not that of the manifest"
            )
    return manifest


def list_checkpoints(root: Path) -> list[Path]:
    """Return all checkpoint folders, oldest first, whole or not."""
    return sorted((p for p in root.glob("step-*") if p.is_dir()), key=lambda p: int(p.name[5:]))


def latest_complete(root: Path) -> Found:
    """Return the newest checkpoint that passes `verify`."""
    rejected: list[str] = []
    for folder in reversed(list_checkpoints(root)):
        try:
            verify(folder)
            return Found(folder, rejected)
        except CheckpointError as error:
            rejected.append(str(error))
    return Found(None, rejected)


def retain(root: Path, keep: int, best: Kept | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and the best, and remains of unfinished saves."""
    spared = "" if best is None or best.folder else checkpoint_name(best.step)
    for folder in list_checkpoints(root)[:-keep]:
        if folder.name == spared:
            continue
        # Remove the manifest first: an interrupted removal then leaves nothing that looks complete.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder)
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover)


def to_state_json(state: TrainState) -> str:
    return to_json(state)


def records_from_json(parts: list[dict[str, dict[str, object]]]) -> dict[str, FileRecord]:
    """Return the records that the ranks sent, as one mapping."""
    merged = {name: body for part in parts for name, body in part.items()}
    return {name: from_json(FileRecord, json.dumps(body)) for name, body in sorted(merged.items())}
