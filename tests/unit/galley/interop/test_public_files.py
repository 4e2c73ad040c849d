"""Files as public repositories carry them: each becomes the strategy that it means, or one clear sentence.

Rewritten from memory of axolotl, LLaMA-Factory, Transformers' documentation, Megatron-DeepSpeed,
DeepSpeedExamples, alignment-handbook and TRL; values that matter here are theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.galley.interop.files import accelerate_file, compose, deepspeed_file, problem

AUTO = dict.fromkeys(
    (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ),
    "auto",
)
FP16 = {
    "enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2,
    "min_loss_scale": 1,
}  # fmt: skip
BUCKETS = {
    "allgather_partitions": True, "allgather_bucket_size": 5e8, "overlap_comm": True, "reduce_scatter": True,
    "reduce_bucket_size": 5e8, "contiguous_gradients": True, "round_robin_gradients": True,
}  # fmt: skip
LLAMA_FACTORY = {**AUTO, "zero_allow_untested_optimizer": True, "fp16": FP16, "bf16": {"enabled": "auto"}}
AXOLOTL = {**AUTO, "fp16": {**FP16, "auto_cast": False, "initial_scale_power": 32}, "bf16": {"enabled": True}}
OFFLOADED = {"device": "cpu", "pin_memory": True}
ADAMW = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
WARMUP = dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto")
CHAT = {
    "steps_per_print": 10, "bfloat16": {"enabled": True}, "prescale_gradients": False,
    "hybrid_engine": {"enabled": False, "max_out_tokens": 512, "inference_tp_size": 1},
    "tensorboard": {"enabled": False, "output_path": "logs", "job_name": "step3"},
}  # fmt: skip

DEEPSPEED_FILES: dict[str, tuple[dict[str, Any], str, str]] = {
    "axolotl zero1": ({**AXOLOTL, "zero_optimization": {"stage": 1, "overlap_comm": True}}, "zero1", "bf16"),
    "axolotl zero3": (
        {
            **AXOLOTL,
            "zero_optimization": {
                "stage": 3, "sub_group_size": 0, "reduce_bucket_size": "auto",
                "stage3_prefetch_bucket_size": "auto", "stage3_max_live_parameters": 0,
                "stage3_max_reuse_distance": 0, "stage3_gather_16bit_weights_on_model_save": True,
            },
        },
        "zero3", "bf16",
    ),
    "LLaMA-Factory z0": ({**LLAMA_FACTORY, "zero_optimization": {"stage": 0, **BUCKETS}}, "ddp", "auto"),
    "LLaMA-Factory z2": ({**LLAMA_FACTORY, "zero_optimization": {"stage": 2, **BUCKETS}}, "zero2", "auto"),
    "LLaMA-Factory z3 offload": (
        {
            **LLAMA_FACTORY,
            "zero_optimization": {
                "stage": 3, "offload_optimizer": OFFLOADED, "offload_param": OFFLOADED, "sub_group_size": 1e9,
            },
        },
        "zero3_offload", "auto",
    ),
    "Transformers zero2": (
        {
            **AUTO, "fp16": FP16, "optimizer": ADAMW, "scheduler": {"type": "WarmupLR", "params": WARMUP},
            "zero_optimization": {"stage": 2, "offload_optimizer": OFFLOADED}, "steps_per_print": 2000,
        },
        "zero2_offload", "auto",
    ),
    "DeepSpeed-Chat": (
        {**CHAT, "zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}}, "zero3", "bf16",
    ),
    "Megatron-DeepSpeed BLOOM": (
        {
            "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": 1.0, "bf16": {"enabled": True},
            "zero_optimization": {"stage": 0}, "steps_per_print": 2000, "wall_clock_breakdown": False,
        },
        "ddp", "bf16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEPSPEED_FILES)
def test_a_deepspeed_file_is_the_strategy_that_it_means(tmp_path: Path, name: str) -> None:
    config, strategy, compute = DEEPSPEED_FILES[name]
    found = compose(deepspeed_file(tmp_path, config))
    assert (found.strategy.name, found.precision.compute) == (strategy, compute)


ZERO = {"zero_optimization": {"stage": 3}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**LLAMA_FACTORY, **ZERO, "tensor_parallel": {"autotp_size": 4}}, "is not combined with deepspeed"),
        ({**ZERO, "optimizer": {"type": "OneBitAdam"}}, "'OneBitAdam' is not an optimizer here"),
        (
            {"zero_optimization": {"stage": 3, "aio": {"queue_depth": 32}}},
            "(zero_optimization.aio): it belongs beside zero_optimization",
        ),
        (
            {
                "zero_optimization": {
                    "stage": 3, "zero_quantized_weights": True, "zero_quantized_gradients": True,
                },
            },
            "the same holds for zero_optimization.zero_quantized_gradients",
        ),
        ({**ZERO, "curriculum_learning": {"enabled": True, "curriculum_type": "seqlen"}}, "has removed it"),
        ({"gradient_clipping": 1.0, "optimizer": ADAMW}, "valid: 0 (plain DDP) to 3"),
    ],
)  # fmt: skip
def test_what_a_deepspeed_file_asks_for_in_vain_is_said_once(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    assert said in problem(deepspeed_file(tmp_path, config))


COMMON = {
    "compute_environment": "LOCAL_MACHINE", "debug": False, "downcast_bf16": "no", "machine_rank": 0,
    "main_training_function": "main", "mixed_precision": "bf16", "num_machines": 1, "num_processes": 8,
    "rdzv_backend": "static", "same_network": True, "tpu_env": [], "tpu_use_cluster": False,
    "tpu_use_sudo": False, "use_cpu": False,
}  # fmt: skip
FSDP1 = {
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_backward_prefetch": "BACKWARD_PRE",
    "fsdp_cpu_ram_efficient_loading": True, "fsdp_forward_prefetch": False, "fsdp_offload_params": False,
    "fsdp_sharding_strategy": "FULL_SHARD", "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_sync_module_states": True, "fsdp_use_orig_params": True,
}  # fmt: skip
FSDP2 = {
    "fsdp_activation_checkpointing": False, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_cpu_ram_efficient_loading": True, "fsdp_offload_params": False, "fsdp_reshard_after_forward": True,
    "fsdp_state_dict_type": "FULL_STATE_DICT", "fsdp_version": 2,
}  # fmt: skip


def plugin(stage: int, **block: Any) -> dict[str, Any]:
    standard = {"deepspeed_multinode_launcher": "standard", "zero_stage": stage, **block}
    return {**COMMON, "distributed_type": "DEEPSPEED", "deepspeed_config": standard}


ACCELERATE_FILES = {
    "alignment-handbook zero3": (plugin(3, zero3_init_flag=True, zero3_save_16bit_model=True), "zero3"),
    "TRL zero1": (plugin(1, zero3_init_flag=False, gradient_accumulation_steps=1), "zero1"),
    "TRL zero2": (plugin(2, zero3_init_flag=False, offload_optimizer_device="none"), "zero2"),
    "alignment-handbook fsdp": ({**COMMON, "distributed_type": "FSDP", "fsdp_config": FSDP1}, "fsdp"),
    "TRL fsdp2": ({**COMMON, "distributed_type": "FSDP", "fsdp_config": FSDP2}, "fsdp"),
    "TRL multi_gpu": ({**COMMON, "distributed_type": "MULTI_GPU", "gpu_ids": "all"}, "ddp"),
}


@pytest.mark.parametrize("name", ACCELERATE_FILES)
def test_an_accelerate_file_is_the_strategy_that_it_means(tmp_path: Path, name: str) -> None:
    config, strategy = ACCELERATE_FILES[name]
    found = compose(accelerate_file(tmp_path, config))
    assert (found.strategy.name, found.precision.compute) == (strategy, "bf16")
    assert (found.cluster.device, found.cluster.procs_per_node) == ("cuda", 8)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"distributed_type": "MEGATRON_LM", "megatron_lm_config": {"megatron_lm_tp_degree": 2}},
            "(distributed_type): Megatron-LM is not an engine here: strategy=tp, pp and 3d",
        ),
        ({"distributed_type": "XLA", "fsdp_config": {"xla": True, "xla_fsdp_v2": True}}, "TPUs are not"),
        ({"distributed_type": "FSDP", "fsdp_config": {"xla": True, "xla_fsdp_v2": True}}, "TPUs are not"),
        ({"distributed_type": "MULTI_XPU", "ipex_config": {"use_xpu": True}}, "Intel GPUs (xpu) are not"),
        (
            {**plugin(3), "parallelism_config": {"parallelism_config_sp_size": 2}},
            "(parallelism_config.parallelism_config_sp_size): there is no sequence parallelism here",
        ),
    ],
)  # fmt: skip
def test_what_an_accelerate_file_asks_for_in_vain_is_said_once(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    assert said in problem(accelerate_file(tmp_path, COMMON | config))
