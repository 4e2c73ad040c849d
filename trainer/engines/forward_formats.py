"""Read the formats in which the layers of a forward really compute off their results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch


class ForwardFormats:
    """Watches the layers that multiply by a matrix, from construction to `close`.

    Under autocast their results have the compute format; embeddings only look up, and norms are computed
    in fp32. Modules that hold others are not watched: their results may be sums in another format.
    """

    def __init__(
        self, model: torch.nn.Module, shape: Callable[[torch.nn.Parameter], tuple[int, ...]]
    ) -> None:
        """Hook the layers of `model`.

        `shape` returns the shape of a whole parameter, of which a rank may hold a part.
        """
        self.seen: set[torch.dtype] = set()
        note = partial(_note, self.seen)
        self._hooks = [
            module.register_forward_hook(note) for module in model.modules() if _multiplies(module, shape)
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _multiplies(module: torch.nn.Module, shape: Callable[[torch.nn.Parameter], tuple[int, ...]]) -> bool:
    """Return whether the module multiplies by a matrix of its own."""
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) or any(module.children()):
        return False
    return any(len(shape(parameter)) > 1 for parameter in module.parameters(recurse=False))


def _note(seen: set[torch.dtype], module: torch.nn.Module, args: Any, result: Any) -> None:
    """Record the format of a layer's result."""
    if isinstance(result, torch.Tensor) and result.is_floating_point():
        seen.add(result.dtype)
