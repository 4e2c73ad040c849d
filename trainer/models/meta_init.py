"""Models whose weights only the main rank reads (`strategy.cpu_ram_efficient_loading`).

On every other rank the model is made on torch's meta device, where it has names, shapes and ties but
no numbers. When an engine takes it, its tensors get addresses. Memory itself comes only with the first
write, and engines that partition parameters write only each rank's part, or one parameter at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from trainer.hosts.ranks import Ranks
from trainer.models.build import mark_new, new_names


def load_on_main(
    ranks: Ranks, load: Callable[[], torch.nn.Module], prepare: Callable[[torch.nn.Module], torch.nn.Module]
) -> torch.nn.Module:
    """Return `prepare(load())`, with weights on the main rank and without on the others. A collective."""
    model = load() if ranks.is_main else None
    new = ranks.from_main(new_names(model) if model is not None else None)
    with _without_weights(not ranks.is_main):
        if model is None:
            model = load()
            mark_new(model, new)  # only the rank that read the weights knows which are new
        return prepare(model)


def _without_weights(wanted: bool) -> AbstractContextManager[object]:
    return torch.device("meta") if wanted else nullcontext()


def give_addresses(model: torch.nn.Module) -> None:
    """Put uninitialized tensors on the CPU in place of those on the meta device. Tied tensors stay tied."""
    made: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                new = torch.nn.Parameter(_unwritten(parameter), requires_grad=parameter.requires_grad)
                module._parameters[name] = made.setdefault(parameter, new)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = made.setdefault(buffer, _unwritten(buffer))


def _unwritten(like: torch.Tensor) -> torch.Tensor:
    """Return a tensor on its own pages, which take memory only when written and are freed with the tensor.

    What torch's allocator frees between other tensors stays in the process.
    """
    if not like.numel():
        return torch.empty_like(like, device="cpu")
    pages = mmap.mmap(-1, like.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(like.shape)
