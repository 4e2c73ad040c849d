"""Saving and loading the state of an engine. Both are collectives: every rank takes part."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from galley.errors import CheckpointError
from galley.rundir import write_atomic
from trainer.checkpoints.manifest import (
    MANIFEST_NAME,
    STATE_NAME,
    FileRecord,
    Manifest,
    TrainState,
    checkpoint_name,
    fingerprint,
    read_manifest,
    read_state,
    record,
    records_from_json,
    retain,
    to_state_json,
    write_manifest,
)
from trainer.failures import DiskFullError
from trainer.ranks import Ranks
from trainer.strategies.base import MOMENTS, Engine

FP32_BYTES = 4
# Headers, state and manifest, and a margin for what else is written meanwhile.
RESERVE_BYTES = 4 * 2**20


def model_fingerprint(model: torch.nn.Module) -> str:
    return fingerprint({name: tuple(p.shape) for name, p in model.named_parameters()})


def persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without its parameters, tied names of parameters left out."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: t for name, t in model.state_dict().items() if name not in parameters}


def checkpoint_bytes(engine: Engine) -> int:
    """Size of a checkpoint, all ranks together."""
    trained = sum(engine.full_numel(p) for p in engine.trainable.values())
    buffers = sum(t.nbytes for t in persistent_buffers(engine.model).values())
    return FP32_BYTES * trained * (1 + len(MOMENTS)) + buffers + RESERVE_BYTES


def save(root: Path, engine: Engine, state: TrainState, keep: int) -> Path:
    """Write the checkpoint of `state.step` and drop the oldest beyond `keep`.

    Raises `DiskFullError` before anything is written where it would not fit. Earlier checkpoints
    stay as they are until the new one is complete.
    """
    ranks = engine.setup.ranks
    folder = root / checkpoint_name(state.step)
    partial = root / f".{folder.name}"
    if ranks.is_main:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        _check_space(root, checkpoint_bytes(engine))
        partial.mkdir()
    ranks.barrier()
    own = _write_share(partial, engine, ranks)
    records = records_from_json(ranks.gather_json({name: asdict(value) for name, value in own.items()}))
    if ranks.is_main:
        write_atomic(partial / STATE_NAME, to_state_json(state))
        records[STATE_NAME] = record(partial / STATE_NAME)
        shapes = {name: engine.full_shape(p) for name, p in engine.parameters.items()}
        frozen = engine.setup.frozen_sha256
        manifest = Manifest(fingerprint(shapes), ranks.world_size, records, frozen_sha256=frozen)
        write_manifest(partial, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        retain(root, keep)
    return folder


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DiskFullError(
            f"disk full: the next checkpoint needs {needed} bytes and {root} has {free} bytes free: "
            "free some space, or lower checkpoint.keep, then resume the run"
        )


def _write_share(partial: Path, engine: Engine, ranks: Ranks) -> dict[str, FileRecord]:
    """This rank's file: the tensors it owns. Every rank takes part in gathering all of them."""
    owners = share_out({name: engine.full_numel(p) for name, p in engine.trainable.items()}, ranks.world_size)
    tensors: dict[str, torch.Tensor] = {}
    for name in engine.trainable:
        parts = {"param": engine.parameter(name)}
        parts |= {moment: engine.moment(moment, name) for moment in MOMENTS}
        if owners[name] == ranks.rank:
            tensors |= {f"{kind}/{name}": t.contiguous() for kind, t in parts.items()}
    if ranks.is_main:
        buffers = persistent_buffers(engine.model)
        tensors |= {f"buffer/{name}": t.detach().cpu().clone() for name, t in buffers.items()}
    path = partial / f"tensors-{ranks.rank:05d}-of-{ranks.world_size:05d}.safetensors"
    save_file(tensors, path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return {path.name: record(path)}


def share_out(sizes: dict[str, int], world_size: int) -> dict[str, int]:
    """name -> owning rank, the largest first to the rank that has least."""
    loads = [0] * world_size
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = loads.index(min(loads))
        owners[name] = owner
        loads[owner] += sizes[name]
    return owners


class Checkpoint:
    """A verified checkpoint, opened for reading. Tensors are read when they are asked for."""

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
        """Into the bare model, before an engine wraps or partitions it; frozen weights stay as they are.

        Raises `CheckpointError` when the checkpoint is of another model, or of other frozen weights.
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
        """Optimizer state and loss scale."""
        engine.load_moments(self.tensor, self.state.optimizer_steps)
        engine.loss_scale.scale = self.state.loss_scale
        engine.loss_scale.good_steps = self.state.loss_scale_good_steps
        engine.loss_scale.overflows = self.state.loss_scale_overflows


def _keys(shard: Any) -> list[str]:
    keys: list[str] = shard.keys()
    return keys
