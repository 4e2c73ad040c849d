"""Data and weights that a warm server has loaded before its runs are forked. Empty in a cold process.

The content is exactly what a cold run would load itself: same code, same recipe. A run inherits it
copy-on-write, so that nothing that the run does reaches the server or another run.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Set
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from galley.registry import TASKS
from galley.schema import Recipe
from trainer.hosts.ranks import Ranks
from trainer.tasks import make_task
from trainer.tasks.base import Datasets, Task

MAX_HELD = 2
# Neither data nor initial weights depend on these keys. Any other key, also a new one, is taken to
# matter. A task is told the recipe of its run before it is used.
_IRRELEVANT = (
    "recipe", "profile", "precision", "optim", "schedule", "batch", "train", "checkpoint", "launcher",
    "cluster", "hpo", "tracker", "run_dir", "detach", "after",
)  # fmt: skip


Mark = tuple[int, int]
"""The address of a tensor, and how often it was written in place."""


@dataclass(frozen=True)
class Held:
    """A task that has read its data, and its model on the CPU in fp32.

    Attributes:
        marks: of the model's tensors. A fork that finds a mark again has the server's weights.
    """

    task: Task
    data: Datasets
    model: torch.nn.Module
    marks: frozenset[Mark]


_held: OrderedDict[str, Held] = OrderedDict()


def hold(recipe: Recipe) -> bool:
    """Load the data and the model of `recipe` unless they are held; return whether they are new.

    The oldest content makes room. A task from outside Galley is left to its run, since its code may do
    anything. Raises what loading raises.
    """
    if recipe.task.kind not in TASKS.built_in:
        return False
    key = _key(recipe)
    new = key not in _held
    if new:
        while len(_held) >= MAX_HELD:
            _held.popitem(last=False)
        task = make_task(recipe)
        data, model = task.datasets(nullcontext), task.model()
        _held[key] = Held(task, data, model, frozenset(map(_mark, model.state_dict().values())))
    _held.move_to_end(key)
    return new


def take(recipe: Recipe) -> Held | None:
    """Return what is held for this run, which owns it from now on; None if there is nothing."""
    if not _held:
        return None
    held = _held.pop(_key(recipe), None)
    _held.clear()
    if held is not None:
        held.task.recipe = recipe
    return held


def are_replicas(model: torch.nn.Module, ranks: Ranks, inherited: Set[Mark] = frozenset()) -> bool:
    """Return whether all ranks have the same weights, by a checksum per rank. A collective.

    Tensors that all ranks inherited from one server are compared by their marks, without reading them.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for tensor in model.state_dict().values():
        if (mark := _mark(tensor)) in inherited:
            digest.update(repr(mark).encode())
            continue
        whole = tensor.detach().contiguous().flatten().view(torch.uint8)
        words = whole[: len(whole) // 8 * 8].view(torch.int64)
        digest.update(int(words.sum()).to_bytes(8, "little", signed=True))
        digest.update(bytes(whole[len(words) * 8 :].tolist()))
    return len(set(ranks.gather_json(digest.hexdigest()))) == 1


def _mark(tensor: torch.Tensor) -> Mark:
    """Return a mark that changes with the tensor's memory or with a write to it."""
    return tensor.data_ptr(), tensor._version


def _key(recipe: Recipe) -> str:
    """Return a key that is equal for two runs that begin with the same data and weights."""
    relevant = {name: value for name, value in asdict(recipe).items() if name not in _IRRELEVANT}
    model, teacher = recipe.model, recipe.task.distillation.teacher
    named = (recipe.data.path, model.name, model.tokenizer, teacher)
    return json.dumps(
        [relevant, *(_stamp(Path(name).expanduser()) for name in named if name)], sort_keys=True
    )


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of every file in a folder. Changed files are then read again."""
    if not folder.is_dir():
        return []
    files = ((path, path.stat()) for path in sorted(folder.iterdir()))
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in files]
