"""Memory a rank needs for parameters, gradients and optimizer state; activations come on top.

Adam needs 16 bytes a parameter (Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 3.1). Every
engine here keeps fp32 weights and gradients and computes under autocast, so the 16 are 4 + 4 + 8
in every precision. ZeRO divides the optimizer's, the gradients' and the parameters' part by the
number of ranks in its stages 1, 2 and 3.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from galley.schema import Recipe
from galley.spec import ClusterFacts, Layout

GIB = 2**30
FP32 = 4
MOMENTS = 2  # of Adam, fp32
SHARDED_BY = {"none": 0, "optimizer": 1, "grads": 2, "params": 3}


@dataclass(frozen=True)
class Estimate:
    """GiB a rank, without activations and framework."""

    num_parameters: int
    params_gib: float
    grads_gib: float
    optimizer_gib: float
    total_gib: float


def estimate_memory(recipe: Recipe, layout: Layout) -> Estimate | None:
    """The estimate for one rank, or None where the size of the model is not known."""
    count = num_parameters(recipe)
    if count is None:
        return None
    stage, ranks = SHARDED_BY[recipe.strategy.shard], layout.world_size
    params = count * FP32 / (ranks if stage >= 3 else 1)
    grads = count * FP32 / (ranks if stage >= 2 else 1)
    optimizer = count * FP32 * MOMENTS / (ranks if stage >= 1 else 1)
    optimizer = 0.0 if recipe.strategy.offload_optimizer != "none" else optimizer
    params = 0.0 if recipe.strategy.offload_params != "none" else params
    total = params + grads + optimizer
    return Estimate(count, params / GIB, grads / GIB, optimizer / GIB, total / GIB)


def num_parameters(recipe: Recipe) -> int | None:
    """From the recipe, else from the safetensors headers of a local model folder."""
    if recipe.model.num_parameters is not None:
        return recipe.model.num_parameters
    files = sorted(Path(recipe.model.name).expanduser().glob("*.safetensors"))
    return sum(_elements(file) for file in files) if files else None


def _elements(file: Path) -> int:
    """Elements of a safetensors file: an 8-byte little-endian length, then a JSON header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(_product(shape) for shape in shapes)


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def memory_of_rank(layout: Layout, facts: ClusterFacts) -> float:
    """GiB that a rank can have; 0 where it is not known."""
    return facts.gpu_memory_gib if layout.device == "cuda" else facts.memory_gib / layout.procs_per_node


def memory_warnings(estimate: Estimate | None, layout: Layout, facts: ClusterFacts) -> list[str]:
    """Says when the ranks of this machine cannot fit."""
    if estimate is None:
        return ["the model's size is not known (set model.num_parameters): no memory estimate"]
    have = memory_of_rank(layout, facts)
    if estimate.total_gib <= have or not have:  # 0 is unknown
        return []
    return [
        f"{estimate.total_gib:.1f} GiB a rank before activations, but there are {have:.1f} GiB a rank:"
        " shard more (strategy=zero2) or use a smaller model"
    ]
