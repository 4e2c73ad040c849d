"""What differs between the supported versions of torch and Transformers.

Each function tests for a parameter or an attribute, never for a version number: containers carry
their own versions between two releases.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn.parallel import DistributedDataParallel

MODEL_INPUTS = ("input_ids", "attention_mask")
"""What a tokenizer that Galley makes asks a model to read. Transformers 4.57 adds `token_type_ids` by itself,
which GPT-2 would add to its embeddings as if they were words."""


def make_ddp(model: torch.nn.Module, sync_buffers: bool, **options: Any) -> DistributedDataParallel:
    """Wrap `model` in DDP. Buffers are always broadcast with the parameters when DDP starts.

    `sync_buffers`: broadcast them before each forward, too.
    """
    from torch.nn.parallel import DistributedDataParallel

    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters:
        return DistributedDataParallel(model, forward_sync_buffers=sync_buffers, **options)
    # Up to torch 2.11 one option decides about the start and about each forward.
    ddp = DistributedDataParallel(model, broadcast_buffers=True, **options)
    ddp.broadcast_buffers = sync_buffers
    return ddp


def with_one_opening_dtype(stage: Any) -> Any:
    """Return a `PipelineStage` that opens its connections with fp32 on both sides.

    torch 2.9 sends an int64 that the neighbor receives as fp32, and Gloo aborts the process.
    """
    opening = stage._get_init_p2p_neighbors_ops

    def operations() -> Any:
        found = opening()
        for operation in found:
            operation.tensor = operation.tensor.float()
        return found

    stage._get_init_p2p_neighbors_ops = operations
    return stage


def without_outputs(schedule: Any) -> dict[str, bool]:
    """Options of `schedule.step`, so that it does not put the outputs of all chunks together.

    torch 2.9 always does, and would pass the option on to the model.
    """
    return {"return_outputs": False} if "return_outputs" in signature(schedule.step).parameters else {}


def returns_tuple(layer: torch.nn.Module) -> bool:
    """Return whether a decoder layer of Transformers returns its hidden states inside a tuple.

    Layers that can also return attentions do so: GPT-2 and GPT-NeoX in Transformers 4.57 and 5.0.
    """
    return "output_attentions" in signature(layer.forward).parameters


def transformers_tensor_plan(model: Any) -> dict[str, str]:
    """Map patterns of module names to Transformers' name of the cut; empty if it has no plan for this model.

    Completes what older releases leave out: 4.57 the head; 4.57 and 5.0 the norms of queries and keys,
    of whose gradient each rank has only the part of its own heads.
    """
    plan = {**(getattr(type(model), "_tp_plan", None) or {}), **(getattr(model, "tp_plan", None) or {})}
    return {**_norms_of_heads(model, plan), **plan}


def _norms_of_heads(model: Any, plan: dict[str, str]) -> dict[str, str]:
    """Return the norms that every rank holds whole, and applies only to its own heads."""
    cut = [pattern for pattern, style in plan.items() if style == "colwise"]
    return {
        f"{name}.{letter}_norm": "replicated_with_grad_allreduce"
        for name, module in (model.named_modules() if cut else ())
        for letter in "qk"
        if hasattr(module, f"{letter}_norm")
        and any(fnmatch.fnmatch(f"{name}.{letter}_proj", pattern) for pattern in cut)
    }


def mismatched_names(info: Mapping[str, Any]) -> list[str]:
    """Return the names of the stored weights whose shape is not that of the model, sorted.

    `info`: the `output_loading_info` of `from_pretrained`. It lists names in Transformers 4.57, and names
    with both shapes in 5.
    """
    return sorted(entry if isinstance(entry, str) else str(entry[0]) for entry in info["mismatched_keys"])


def is_hub_offline() -> bool:
    """Return whether huggingface_hub sends no request: `HF_HUB_OFFLINE`, or `use_cache_if_unreachable`."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that a call of huggingface_hub raises if the hub refuses or cannot be reached.

    Its HTTP client was requests, then httpx, then httpx2; its own error inherits from that of the client.
    """
    from huggingface_hub.errors import HfHubHTTPError

    client: type[Exception] = HfHubHTTPError.__mro__[1]
    return client, OSError
