"""How the training state is laid over ranks, and in which number formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.registry import ENGINES
from galley.schema.types import Dtype, NameIn, NonNegative, OffloadDevice, Positive


@dataclass(frozen=True)
class Strategy:
    """How parameters, gradients and optimizer state are spread over the ranks.

    A neutral description; each engine is configured from it, and outside files are read into it.

    Attributes:
        engine: what carries the run: `torch` (one process, or DDP), `deepspeed` (ZeRO) or `fsdp`
            (FSDP2).
        data_parallel: whether the ranks share one batch; without it there is one rank.
        shard: what is partitioned over the ranks: `none`, `optimizer` (ZeRO-1), `grads`
            (optimizer and gradients, ZeRO-2), `params` (all three, ZeRO-3). Under fsdp `grads`
            keeps the parameters gathered from the forward to the end of the backward.
        tensor_parallel: ranks that share every matrix of a layer (TP), side by side on one node.
        pipeline_parallel: ranks that the layers are dealt to, one after another (PP). The micro-batches of
            a step (`batch.accumulation`, its chunks) travel through them. What is left of the ranks,
            world ÷ (tensor_parallel × pipeline_parallel), is data-parallel.
        schedule: of a pipeline: `1f1b` (a backward as soon as there is one), `gpipe` (all forwards
            first), `interleaved` (1f1b, each rank having `stages_per_rank` pieces of the model).
        stages_per_rank: consecutive pieces of the model a rank of a pipeline has; null is 2 when
            interleaved, else 1.
        tp_plan: how each module is cut, by the pattern of its name: `{"model.layers.*.mlp.up_proj":
            colwise}`; over the model's own plan in Transformers. Valid: colwise, rowwise,
            colwise_gather_output, embedding_rowwise, replicated.
        hybrid: fsdp: partitioned inside groups of ranks, replicated between the groups (HSDP).
        hybrid_shard_size: ranks of one such group; null is the ranks of a node.
        backend: what carries the collectives: `auto` is nccl on CUDA and gloo on CPU; `probe` is the
            first of oneCCL, MPI and gloo that the CPU ranks have; any other is taken, or an error.
        ccl_workers: oneCCL's own threads a rank, each on a core that does not compute; null is one
            where a rank has at least four cores, otherwise none.
        pin_cores: bind each CPU rank to its share of the physical cores, and to their memory.
        offload_optimizer: where optimizer state lives between steps.
        offload_params: where parameters live between uses. fsdp offloads both to `cpu` or none.
        offload_pin_memory: page-locked host memory for what is offloaded; without a GPU there is none.
        offload_nvme_path: folder on the NVMe drive, where a device is `nvme`.
        wrap: fsdp: what is gathered at once: `layers` (one transformer layer), `size` (modules of
            at least `wrap_min_params`), `none` (the whole model). DeepSpeed needs no such choice.
        wrap_classes: names of the layer classes; null is the model's own `_no_split_modules`.
        wrap_min_params: parameters (elements) a module has at least to be wrapped by itself.
        state_dict: who writes a checkpoint: each rank a file with its share of the tensors (`sharded`),
            or the main rank one file with all of them, which it needs the memory for (`full`). Any
            strategy reads both; the final model is full.
        sync_module_states: the main rank's weights are sent to all before they are partitioned.
        cpu_ram_efficient_loading: only the main rank reads the weights into memory, the others
            receive their part; needs `sync_module_states`. DeepSpeed calls it zero3_init. The weights are
            the same either way.
        engine_options: settings of the engine that the description has no word for, under the
            engine's own keys: for deepspeed a part of its JSON (`zero_optimization.overlap_comm`),
            for fsdp `forward_prefetch`. The engine takes them as they are, or refuses them.
        deepspeed_config: a DeepSpeed JSON file that the strategy is read from.
        accelerate_config: an Accelerate YAML file that the strategy is read from.
    """

    name: str = "ddp"
    engine: Annotated[str, NameIn(ENGINES, own=True)] = "torch"
    data_parallel: bool = True
    shard: Literal["none", "optimizer", "grads", "params"] = "none"
    backend: Literal["auto", "gloo", "nccl", "ccl", "mpi", "probe"] = "auto"
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    schedule: Literal["1f1b", "gpipe", "interleaved"] = "1f1b"
    stages_per_rank: Positive | None = None
    tp_plan: dict[str, str] = field(default_factory=dict)
    ccl_workers: NonNegative | None = None
    pin_cores: bool = False
    hybrid: bool = False
    hybrid_shard_size: Positive | None = None
    offload_optimizer: OffloadDevice = "none"
    offload_params: OffloadDevice = "none"
    offload_pin_memory: bool = True
    offload_nvme_path: str | None = None
    wrap: Literal["layers", "size", "none"] = "layers"
    wrap_classes: list[str] | None = None
    wrap_min_params: Positive = 100_000_000
    state_dict: Literal["sharded", "full"] = "sharded"
    sync_module_states: bool = True
    cpu_ram_efficient_loading: bool = False
    engine_options: dict[str, Any] = field(default_factory=dict)
    deepspeed_config: str | None = None
    accelerate_config: str | None = None

    @property
    def model_parallel(self) -> int:
        """Ranks that hold one copy of the model together."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def num_stages(self) -> int:
        """Pieces that the layers are cut into."""
        each = self.stages_per_rank or (2 if self.schedule == "interleaved" else 1)
        return self.pipeline_parallel * each

    @property
    def reshard_after_forward(self) -> bool:
        """What FSDP2's `fully_shard` calls the difference between `params` and `grads`."""
        return self.shard == "params"


@dataclass(frozen=True)
class Precision:
    """Number formats. Master weights are fp32 whatever the compute format is.

    Attributes:
        compute: format of matrix products and activations. `auto` is bf16 on GPUs that have it (compute
            capability 8.0) and on CPUs that were measured to be faster with it (AMX, AVX-512 BF16), and
            fp32 elsewhere; a sealed run says which.
        reduce: format in which gradients are summed over the ranks.
        initial_scale_power: fp16 starts with a loss scale of 2 to this power.
        loss_scale_window: good steps in a row after which the scale is doubled.
        hysteresis: steps with an overflow after which the scale is halved.
        min_loss_scale: an overflow at this scale fails the run; null lets it fall to 2^-14.
    """

    compute: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    reduce: Dtype = "fp32"
    initial_scale_power: NonNegative = 16
    loss_scale_window: Positive = 2000
    hysteresis: Positive = 1
    min_loss_scale: Annotated[float, Field(gt=0)] | None = None

    @property
    def dtype(self) -> Dtype:
        """`compute` of a sealed run, where it is no longer `auto`."""
        assert self.compute != "auto", "seal() settles it"  # noqa: S101
        return self.compute
