"""Save and load the state of an engine. Both are collectives: every rank takes part.

Saving has two halves: `take_snapshot` stops training for a copy, `write` does not need training any more.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from galley.errors import CheckpointError, DiskFullError
from galley.rundir import checkpoint_name, write_atomic
from trainer.checkpoints.manifest import (
    MANIFEST_NAME,
    STATE_NAME,
    FileRecord,
    Manifest,
    TrainState,
    fingerprint,
    read_manifest,
    read_state,
    record,
    records_from_json,
    retain,
    to_state_json,
    write_manifest,
)
from trainer.engines.base import Engine, persistent_buffers
from trainer.hosts.ranks import Ranks
from trainer.run.failures import classify

FP32_BYTES = 4
# Headers, state and manifest, and a margin for other files that are written meanwhile.
RESERVE_BYTES = 4 * 2**20


def model_fingerprint(model: torch.nn.Module) -> str:
    """Return the hash of the model's parameter names and shapes."""
    return fingerprint({name: tuple(p.shape) for name, p in model.named_parameters()})


def checkpoint_bytes(engine: Engine) -> int:
    """Return the size of a checkpoint, all ranks together."""
    trained = sum(engine.full_numel(p) for p in engine.trainable.values())
    buffers = sum(t.nbytes for t in engine.buffers().values())
    return FP32_BYTES * (trained + engine.most_elements("optimizer", 1)) + buffers + RESERVE_BYTES


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes of a checkpoint, in host memory of its own: training may go on.

    Attributes:
        tensors: those that this rank owns, by their names in the file.
        manifest: without the files.
        files: the number of ranks that write one; with `strategy.state_dict=full` only the main rank.
    """

    state: TrainState
    tensors: dict[str, torch.Tensor]
    manifest: Manifest
    files: int


def take_snapshot(engine: Engine, state: TrainState) -> Snapshot:
    """Gather all tensors on all ranks; keep a copy of those that this rank owns. A collective."""
    ranks = engine.setup.ranks
    files = 1 if engine.setup.recipe.strategy.state_dict == "full" else ranks.world_size
    owners = share_out({name: engine.full_numel(p) for name, p in engine.trainable.items()}, files)
    tensors: dict[str, torch.Tensor] = {}
    for name in engine.reading_order():
        parts = {"param": engine.parameter(name)}
        parts |= {moment: engine.moment(moment, name) for moment in engine.moments(name)}
        if owners[name] == ranks.rank:
            tensors |= {f"{kind}/{name}": _copied(t) for kind, t in parts.items()}
    if ranks.is_main:
        buffers = engine.buffers()
        tensors |= {f"buffer/{name}": _copied(t) for name, t in buffers.items()}

    shapes = {name: engine.full_shape(p) for name, p in engine.parameters.items()}
    frozen = engine.setup.frozen_sha256
    manifest = Manifest(fingerprint(shapes), ranks.world_size, {}, frozen_sha256=frozen)
    return Snapshot(state, tensors, manifest, files)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def make_room(root: Path, state: TrainState, engine: Engine) -> Path:
    """Return an empty folder, into which a checkpoint is written before it gets its name. A collective.

    Raises `DiskFullError` on the main rank, before anything is written, if the checkpoint would not fit.
    """
    partial = root / f".{checkpoint_name(state.step)}"
    if engine.setup.ranks.is_main:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        _check_space(root, checkpoint_bytes(engine))
        partial.mkdir()
    engine.setup.ranks.barrier()
    return partial


def _check_space(root: Path, needed: int) -> None:
    """Raise `DiskFullError` if less than `needed` bytes are free."""
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DiskFullError(
            f"disk full: the next checkpoint needs {needed} bytes and {root} has {free} bytes free: "
            "free some space, or lower checkpoint.keep, then resume the run"
        )


def write(partial: Path, snapshot: Snapshot, ranks: Ranks, keep: int) -> None:
    """Write the checkpoint and remove the oldest beyond `keep`. A collective, apart from those of training.

    Earlier checkpoints stay as they are until the new one is complete. Raises on every rank if
    one could not write.
    """
    files: dict[str, FileRecord] = {}
    failure: Exception | None = None
    try:
        if ranks.rank < snapshot.files:
            files = _write_share(_share(partial, ranks, snapshot), snapshot.tensors)
    except (OSError, SafetensorError) as error:
        failure = error
        _share(partial, ranks, snapshot).unlink(missing_ok=True)  # on a full disk: room for the error report
    by_name = {name: asdict(value) for name, value in files.items()}
    reports = ranks.gather_json({"files": by_name, "failure": _describe(failure)}, apart=True)
    if failure is not None:
        raise failure
    _refuse_failures(partial, [report["failure"] for report in reports])
    if ranks.is_main:
        _complete(partial, snapshot, records_from_json([report["files"] for report in reports]), keep)


def _describe(failure: Exception | None) -> list[str] | None:
    """Return the class and the text of a failure, as JSON."""
    return None if failure is None else [classify(failure, "save"), str(failure)]


def _refuse_failures(partial: Path, failures: list[list[str] | None]) -> None:
    """Raise the first failure of another rank."""
    for rank, failure in enumerate(failures):
        if failure is not None:
            message = f"rank {rank} could not write into {partial.parent}: {failure[1]}"
            raise DiskFullError(message) if failure[0] == "disk_full" else CheckpointError(message)


def _complete(partial: Path, snapshot: Snapshot, records: dict[str, FileRecord], keep: int) -> None:
    """Write the manifest last, and then rename the folder: from that moment the checkpoint exists."""
    folder = partial.with_name(checkpoint_name(snapshot.state.step))
    write_atomic(partial / STATE_NAME, to_state_json(snapshot.state))
    records[STATE_NAME] = record(partial / STATE_NAME)
    write_manifest(partial, replace(snapshot.manifest, files=records))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    retain(folder.parent, keep, snapshot.state.kept)


def _share(partial: Path, ranks: Ranks, snapshot: Snapshot) -> Path:
    return partial / f"tensors-{ranks.rank:05d}-of-{snapshot.files:05d}.safetensors"


def _write_share(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, FileRecord]:
    """Write this rank's file. It is on the disk when this returns."""
    save_file(tensors, path)
    with path.open("rb") as stream:
        # The manifest is written later: it must not name data that a power failure can still lose.
        os.fsync(stream.fileno())
    return {path.name: record(path)}


def share_out(sizes: dict[str, int], world_size: int) -> dict[str, int]:
    """Return name -> owning rank. The largest tensors come first, each to the rank that has least."""
    loads = [0] * world_size
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = loads.index(min(loads))
        owners[name] = owner
        loads[owner] += sizes[name]
    return owners


class Checkpoint:
    """A verified checkpoint, opened for reading. Tensors are read on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = read_state(folder)
        self.manifest = read_manifest(folder)
        shards = [folder / name for name in self.manifest.files if name.endswith(".safetensors")]
        self._shards = [safe_open(path, framework="pt") for path in shards]
        self._index = {key: shard for shard in self._shards for key in _keys(shard)}

    def tensor(self, kind: str, name: str) -> torch.Tensor:
        return self._index[f"{kind}/{name}"].get_tensor(f"{kind}/{name}")  # type: ignore[no-any-return,no-untyped-call]

    def load_weights(self, model: torch.nn.Module, frozen_sha256: str) -> None:
        """Load into the bare model, before an engine wraps or partitions it. Frozen weights stay as they are.

        Raises `CheckpointError` if the checkpoint is of another model, or of other frozen weights.
        """
        if self.manifest.fingerprint != model_fingerprint(model):
            raise CheckpointError(
                f"{self.folder / MANIFEST_NAME}: belongs to another model (names or shapes differ)"
            )
        if self.manifest.frozen_sha256 != frozen_sha256:
            raise CheckpointError(
                f"{self.folder / MANIFEST_NAME}: belongs to another model (the weights that are not"
                " trained differ, and the checkpoint does not hold them)"
            )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.tensor("param", name))
            for name, buffer in persistent_buffers(model).items():
                buffer.copy_(self.tensor("buffer", name))

    def load_engine(self, engine: Engine) -> None:
        """Load optimizer state and loss scale.

        Raises `CheckpointError` if the state is that of another optimizer.
        """
        kept = {f"{moment}/{name}" for name in engine.trainable for moment in engine.moments(name)}
        if not kept <= self._index.keys():
            kind = engine.setup.recipe.optim.kind
            raise CheckpointError(
                f"{self.folder}: was saved under another optimizer and holds no state of {kind}:"
                " set optim.kind and optim.momentum as they were, or begin a new run from its weights"
            )
        engine.load_moments(self.tensor, self.state.optimizer_steps)
        engine.loss_scale.scale = self.state.loss_scale
        engine.loss_scale.good_steps = self.state.loss_scale_good_steps
        engine.loss_scale.overflows = self.state.loss_scale_overflows


def _keys(shard: Any) -> list[str]:
    keys: list[str] = shard.keys()
    return keys
