"""Memory a rank needs: parameters, gradients, optimizer state, and about what activations take.

Adam needs 16 bytes a parameter (Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 3.1). Every
engine here keeps fp32 weights and gradients and computes under autocast, so the 16 are 4 + 4 + 8
in every precision. ZeRO divides the optimizer's, the gradients' and the parameters' part by the
number of ranks in its stages 1, 2 and 3. Frozen parameters have no gradients and no moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from galley.model import shape as model_shape
from galley.model.shape import LayerShape
from galley.schema import Recipe, Strategy
from galley.spec import ClusterFacts, Layout
from galley.strategy.activation_memory import activation_bytes, layers_of_rank, logits_bytes
from galley.strategy.optimizers import num_moments, state_bytes
from galley.strategy.parameter_count import model_size
from galley.strategy.shards import Held, held_by_stage
from galley.system.nvme import STATE_BUFFERS, SUB_GROUP_SIZE

GIB = 2**30
FP32 = 4
SHARDED_BY = {"none": 0, "optimizer": 1, "grads": 2, "params": 3}


@dataclass(frozen=True)
class Estimate:
    """GiB a rank, without the framework.

    Attributes:
        total_gib: of parameters, gradients and optimizer state on the device.
        num_trainable: parameters that are trained; all of them without adapters.
        activations_gib: on top, at most about so much; null where the model's shape is not known.
        logits_gib: on top as well, of a language model's head and its loss; null where the vocabulary is not
            known.
        host_gib: what is offloaded from GPUs; on CPUs it is part of the total.
        drive_gib: what is on an NVMe drive instead.
    """

    num_parameters: int
    params_gib: float
    grads_gib: float
    optimizer_gib: float
    total_gib: float
    num_trainable: int
    activations_gib: float | None = None
    host_gib: float = 0.0
    drive_gib: float = 0.0
    logits_gib: float | None = 0.0

    @property
    def peak_gib(self) -> float:
        """With activations and logits, as far as they are known."""
        return self.total_gib + (self.activations_gib or 0.0) + (self.logits_gib or 0.0)


def estimate_memory(recipe: Recipe, layout: Layout) -> Estimate | None:
    """The estimate for the rank that needs most, or None if the size of the model is not known."""
    base, adapters = num_parameters(recipe), model_shape.num_adapter_parameters(recipe.model)
    if base is None or adapters is None:
        return None
    if recipe.strategy.model_parallel > 1:
        return max(_of_stages(recipe, layout, base), key=lambda one: one.peak_gib)
    return _of_copies(recipe, layout, base + adapters, adapters)


def _of_copies(recipe: Recipe, layout: Layout, count: int, adapters: int) -> Estimate:
    """Where every rank holds, or gathers, a whole model."""
    strategy = recipe.strategy
    trained = adapters if recipe.model.lora.active else count
    stage, parts = SHARDED_BY[strategy.shard], _parts(recipe, layout)
    shape = model_shape.layer_shape(recipe.model)
    params: float = count * FP32 / (parts if stage >= 3 else 1)
    grads: float = trained * FP32 / (parts if stage >= 2 else 1)
    optimizer: float = trained * state_bytes(recipe.optim) / (parts if stage >= 1 else 1)
    host = drive = 0.0
    if strategy.offload_optimizer == "nvme":  # master weights too; in memory are the buffers
        drive += trained * FP32 / parts + optimizer
        optimizer = STATE_BUFFERS * FP32 * min(SUB_GROUP_SIZE, trained / parts)
    if strategy.offload_params == "nvme":  # but for a parameter that is in use
        drive, params = drive + params, 0.0
    if layout.device == "cuda" and strategy.offload_optimizer != "none":
        host, grads, optimizer = host + grads + optimizer, 0.0, 0.0
    if layout.device == "cuda" and strategy.offload_params != "none":
        host, params = host + params, 0.0
    return Estimate(
        num_parameters=count,
        params_gib=params / GIB,
        grads_gib=grads / GIB,
        optimizer_gib=optimizer / GIB,
        total_gib=(params + grads + optimizer) / GIB,
        num_trainable=trained,
        activations_gib=None if shape is None else activation_bytes(recipe, layout, shape, count) / GIB,
        host_gib=host / GIB,
        drive_gib=drive / GIB,
        logits_gib=_gib(logits_bytes(recipe, layout)),
    )


def _of_stages(recipe: Recipe, layout: Layout, count: int) -> Iterator[Estimate]:
    """One for each rank of a pipeline, of the ranks of a matrix and the copies the one with most."""
    shape = model_shape.layer_shape(recipe.model)
    for stage, held in enumerate(_held(recipe, layout, count, shape)):
        kept = None if shape is None else activation_bytes(recipe, layout, shape, held.params, stage) / GIB
        yield Estimate(
            num_parameters=count,
            params_gib=held.params * FP32 / GIB,
            grads_gib=held.grads * FP32 / GIB,
            optimizer_gib=held.optimizer * FP32 / GIB,
            total_gib=(held.params + held.grads + held.optimizer) * FP32 / GIB,
            num_trainable=count,
            activations_gib=kept,
            logits_gib=_gib(logits_bytes(recipe, layout, stage)),
        )


def _held(recipe: Recipe, layout: Layout, count: int, shape: LayerShape | None) -> list[Held]:
    """By the plan of the model if its type is known, else from the shape of its layers."""
    stages = held_by_stage(recipe, layout)
    if stages is not None:
        return [max(copies, key=lambda held: held.optimizer) for copies in stages]
    copies = layout.data_parallel if recipe.strategy.shard == "optimizer" else 1
    ranks = range(recipe.strategy.pipeline_parallel)
    own = [_share_of_rank(recipe.strategy, shape, count, rank) for rank in ranks]
    return [Held(part, part, num_moments(recipe.optim) * part // copies) for part in own]


def _share_of_rank(strategy: Strategy, shape: LayerShape | None, count: int, rank: int) -> int:
    """Elements on a rank of a model whose plan is not known: its part of its layers, which alone are cut.

    Embeddings and head stay whole; the first and the last stage have them all, as where they are tied.
    Without a shape everything is taken to be in the layers.
    """
    h, num_layers = (shape.hidden_size, shape.num_layers) if shape else (0, strategy.num_stages)
    layers = shape.num_layers * (4 * h * h + 2 * h * shape.intermediate_size) if shape else count
    layers = min(layers, count)
    own = layers * layers_of_rank(strategy, num_layers, rank) // num_layers // strategy.tensor_parallel
    at_an_end = rank in (0, strategy.pipeline_parallel - 1)
    return own + (count - layers if at_an_end else 0)


def _gib(count: float | None) -> float | None:
    return None if count is None else count / GIB


def num_parameters(recipe: Recipe) -> int | None:
    """Without adapters; see `model_size`."""
    return model_size(recipe)


def _parts(recipe: Recipe, layout: Layout) -> int:
    """Ranks that one copy of the model is cut over: under HSDP those of a group."""
    if recipe.strategy.hybrid:
        return recipe.strategy.hybrid_shard_size or layout.procs_per_node
    return layout.data_parallel


def memory_of_rank(layout: Layout, facts: ClusterFacts) -> float:
    """GiB that a rank can have; 0 where it is not known."""
    return facts.gpu_memory_gib if layout.device == "cuda" else facts.memory_gib / layout.procs_per_node


def memory_warnings(estimate: Estimate | None, layout: Layout, facts: ClusterFacts) -> list[str]:
    """Says when the ranks of this machine cannot fit."""
    if estimate is None:
        return ["the model's size is not known (set model.num_parameters): no memory estimate"]
    have = memory_of_rank(layout, facts)
    if not have:  # unknown
        return []
    but = f"but there are {have:.1f} GiB a rank"
    if estimate.total_gib > have:
        what = f"{estimate.total_gib:.1f} GiB a rank before activations"
        return [f"{what}, {but}: shard more (strategy=zero2) or use a smaller model"]
    if estimate.peak_gib > have:
        what = f"about {estimate.peak_gib:.1f} GiB a rank with activations"
        return [f"{what}, {but}: train.gradient_checkpointing=true or a smaller batch.micro_size"]
    return []
