"""The best checkpoint of a run (`checkpoint.keep_best`): which one it is, and the weights of model/."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from galley.errors import CheckpointError, ConfigError
from galley.metrics import Direction, Metric, is_better, kept_best, unknown_direction
from galley.rundir import checkpoint_name
from galley.schema import Recipe
from trainer.checkpoints.manifest import Kept, verify
from trainer.checkpoints.store import Checkpoint
from trainer.engines.base import Engine
from trainer.hosts.ranks import Ranks
from trainer.run.early_stopping import measured

log = logging.getLogger("galley")


@dataclass
class Best:
    """Compares evaluations by `metric`; an empty name compares nothing.

    `kept` is the best one so far, the first of equals, like `load_best_model_at_end` of Transformers.
    """

    metric: str = ""
    direction: Direction | None = None
    kept: Kept | None = None

    @classmethod
    def of(cls, recipe: Recipe, metrics: Mapping[str, Metric]) -> Best:
        """Return the comparison of a recipe. `metrics` are those of the task.

        Raises `ConfigError` if nobody has stated the metric's direction.
        """
        sought = None if recipe.eval.only else kept_best(recipe, metrics)
        if sought is None:
            return cls()
        name, direction = sought
        if direction is None:
            raise ConfigError(unknown_direction("checkpoint.keep_best", name, f"{name}:max or {name}:min"))
        return cls(name, direction)

    def resume(self, kept: Kept | None) -> None:
        """Continue from the best evaluation of earlier attempts, if it was chosen by the same metric."""
        if kept is not None and kept.metric == self.metric:
            self.kept = kept

    def update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Return whether this evaluation is the best so far, so that its checkpoint must be saved."""
        if self.direction is None:
            return False
        value = measured(f"checkpoint.keep_best={self.metric}", self.metric, metrics)
        if not is_better(value, None if self.kept is None else self.kept.value, self.direction):
            return False
        self.kept = Kept(step, self.metric, value, dict(metrics))
        return True


def resumed_best(own: Path, checkpoint: Checkpoint | None, ranks: Ranks) -> Kept | None:
    """Return the best evaluation before this attempt if its checkpoint is whole, else warn. A collective.

    `folder` of the result is empty for a checkpoint of the run itself.
    """
    kept = None if checkpoint is None else checkpoint.state.kept
    if checkpoint is None or kept is None:
        return None
    folder = kept_folder(checkpoint.folder.parent, kept)
    problem = ranks.from_main(_problem(folder, checkpoint.folder) if ranks.is_main else "")
    if problem:
        log.warning("the best checkpoint is not usable, the best is sought anew: %s", problem)
        return None
    return replace(kept, folder="" if folder.parent == own else str(folder))


def kept_folder(own: Path, kept: Kept) -> Path:
    """Return the folder of the best checkpoint. `own` is the folder of the run's checkpoints."""
    return Path(kept.folder) if kept.folder else own / checkpoint_name(kept.step)


def _problem(folder: Path, verified: Path) -> str:
    """Return what is wrong with the checkpoint in `folder`. That in `verified` was verified already."""
    try:
        if folder != verified:
            verify(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def with_weights(
    state: Mapping[str, torch.Tensor], engine: Engine, checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    """Return the full state of the engine's model (`Engine.full_state`) with the weights of a checkpoint.

    The checkpoint is of the same run. Weights that are not trained are not part of it, and stay. Names that
    share a parameter share the tensor.
    """
    named = dict(engine.model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    read: dict[str, torch.Tensor] = {}
    restored: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        parameter = named.get(key)
        if parameter is not None and not parameter.requires_grad:
            restored[key] = tensor
            continue
        kind, name = ("buffer", key) if parameter is None else ("param", first[id(parameter)])
        if name not in read:
            read[name] = checkpoint.tensor(kind, name).to(tensor.dtype)
        restored[key] = read[name]
    return restored
