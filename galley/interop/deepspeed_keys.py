"""The keys of a DeepSpeed configuration, and what becomes of each.

Names as DeepSpeed 0.19.8 reads them: `deepspeed/runtime/{config,constants,precision_config}.py`,
`runtime/zero/{config,offload_config}.py`, `runtime/swap_tensor/constants.py`,
`runtime/lr_schedules.py`; and those that it has removed since 0.10, which files still carry.
"""

from __future__ import annotations

from galley.interop.reading import Keep, Refuse, Settled, Table, Take
from galley.interop.values import boolean, integer, mapping, plain_number, text

REMOVED = Refuse("DeepSpeed has removed it")
OTHER_AXIS = Refuse("splits the model itself; this description is of data parallelism")
TRACKING = Refuse("metrics are written by Galley: see tracker=")
FP32_MASTERS = Refuse("master weights and optimizer state are fp32 under every strategy")

TOP: Table = {
    "train_batch_size": Take(),
    "train_micro_batch_size_per_gpu": Take(),
    "gradient_accumulation_steps": Take(),
    "gradient_clipping": Take(),
    "communication_data_type": Take(),
    "fp16": Take(),
    "bf16": Take(),
    "optimizer": Take(),
    "scheduler": Take(),
    "zero_optimization": Take(),
    "activation_checkpointing": Take(),
    "data_types": Take(),
    "steps_per_print": Keep(plain_number),
    "wall_clock_breakdown": Keep(boolean),
    "memory_breakdown": Keep(boolean),
    "dump_state": Keep(boolean),
    "disable_python_gc": Keep(boolean),
    "disable_allgather": Keep(boolean),
    "prescale_gradients": Keep(boolean),
    "gradient_predivide_factor": Keep(plain_number),
    "zero_allow_untested_optimizer": Keep(boolean),
    "zero_force_ds_cpu_optimizer": Keep(boolean),
    "log_level": Keep(text),
    "vocabulary_size": Keep(integer),
    "timers": Keep(mapping),
    "comms_logger": Keep(mapping),
    "flops_profiler": Keep(mapping),
    "aio": Keep(mapping),
    "gradient_allreduce_op": Refuse("gradients are averaged over the ranks", ok=("mean",)),
    "seq_parallel_communication_data_type": Refuse("there is no sequence parallelism here", ok=("fp32",)),
    "torch_autocast": Refuse("the compute format is precision=fp32|bf16|fp16"),
    "amp": Refuse("NVIDIA Apex is not used: precision=bf16 or fp16"),
    "keep_in_fp32_modules": Refuse("the compute format is one for the whole model"),
    "managed_gradient_accumulation": Refuse("accumulation is Galley's: batch.accumulation"),
    "dataloader_drop_last": Refuse("every sample is seen once an epoch; none is dropped"),
    "checkpoint": Refuse("checkpoints are Galley's own: see checkpoint.*"),
    "nebula": Refuse("checkpoints are Galley's own: see checkpoint.*"),
    "datastates_ckpt": Refuse("checkpoints are Galley's own: see checkpoint.*"),
    "compile": Take(),
    "pipeline": OTHER_AXIS,
    "tensor_parallel": Take(),
    "expert_parallel": OTHER_AXIS,
    "use_data_before_expert_parallelism": OTHER_AXIS,
    "hybrid_engine": Refuse("it generates text while training; no task here does"),
    "autotuning": Refuse("it launches runs of its own: see hpo="),
    "data_efficiency": Refuse("it chooses the samples itself, which would break resuming sample by sample"),
    "compression_training": Refuse("it changes the model that is trained"),
    "weight_quantization": Refuse("it changes the model that is trained"),
    "tensorboard": TRACKING,
    "wandb": TRACKING,
    "csv_monitor": TRACKING,
    "comet": TRACKING,
    "elasticity": REMOVED,
    "curriculum_learning": REMOVED,
    "progressive_layer_drop": REMOVED,
    "eigenvalue": REMOVED,
    "quantize_training": REMOVED,
    "sparse_attention": REMOVED,
    "sparse_gradients": REMOVED,
    "graph_harvesting": REMOVED,
}
TOP_ALIASES = {"bfloat16": "bf16"}

FP16: Table = {
    "enabled": Take(),
    "initial_scale_power": Take(),
    "loss_scale_window": Take(),
    "hysteresis": Take(),
    "min_loss_scale": Take(),
    "auto_cast": Take(),
    "loss_scale": Refuse("loss scaling is dynamic", ok=(0, "0")),
    "consecutive_hysteresis": Refuse("every overflow counts until the scale is lowered"),
    "fp16_master_weights_and_grads": FP32_MASTERS,
}
BF16: Table = {
    "enabled": Take(),
    "immediate_grad_update": Refuse("gradients are applied once a step"),
    "check_grad_overflow": Refuse("a step that is not finite ends the run as failed, it is not skipped"),
    "bf16_master_weights_and_grads": FP32_MASTERS,
    "bf16_optimizer_states": FP32_MASTERS,
}

ZERO: Table = {
    "stage": Take(),
    "offload_optimizer": Take(),
    "offload_param": Take(),
    "cpu_offload": Take(),
    "cpu_offload_param": Take(),
    "cpu_offload_use_pin_memory": Take(),
    "stage3_gather_16bit_weights_on_model_save": Take(),
    "contiguous_gradients": Keep(boolean),
    "reduce_scatter": Keep(boolean),
    "reduce_bucket_size": Keep(integer),
    "use_multi_rank_bucket_allreduce": Keep(boolean),
    "allgather_partitions": Keep(boolean),
    "allgather_bucket_size": Keep(integer),
    "overlap_comm": Keep(boolean),
    "load_from_fp32_weights": Keep(boolean),
    "sub_group_size": Keep(integer),
    "ignore_unused_parameters": Keep(boolean),
    "round_robin_gradients": Keep(boolean),
    "parameter_alignment": Keep(boolean),
    "memory_efficient_linear": Keep(boolean),
    "override_module_apply": Keep(boolean),
    "log_trace_cache_warnings": Keep(boolean),
    "enable_sanity_checks": Keep(boolean),
    "leaf_module": Keep(mapping),
    "stage3_prefetch_bucket_size": Keep(integer),
    "stage3_param_persistence_threshold": Keep(integer),
    "stage3_model_persistence_threshold": Keep(integer),
    "stage3_max_live_parameters": Keep(integer),
    "stage3_max_reuse_distance": Keep(integer),
    "stage3_module_granularity_threshold": Keep(integer),
    "stage3_use_all_reduce_for_fetch_params": Keep(boolean),
    "stage3_allgather_sequential": Keep(boolean),
    "compute_grad_norm": Refuse("every step reports the norm of its gradients", ok=(True, "true")),
    "elastic_checkpoint": Refuse("checkpoints are Galley's own, for any number of ranks"),
    "pipeline_loading_checkpoint": Refuse("checkpoints are Galley's own, for any number of ranks"),
    "legacy_stage1": REMOVED,
    "aio": Refuse("it belongs beside zero_optimization, where DeepSpeed looks for it"),
    "zenflow": Refuse("it delays updates: the training curve would be another"),
    "save_muon_momentum_buffer_in_memory": Refuse("the optimizer is AdamW"),
    "zero_hpz_partition_size": Refuse("a second partition in each node: use fsdp with hybrid", ok=(1,)),
    "zero_quantized_weights": Refuse("quantized communication: the training curve would be another"),
    "zero_quantized_nontrainable_weights": Refuse("quantized weights: the training curve would be another"),
    "zero_quantized_gradients": Refuse("quantized communication: the training curve would be another"),
    "mics_shard_size": Refuse("DeepSpeed has removed it: use fsdp with hybrid", ok=(-1,)),
    "mics_hierarchical_params_gather": REMOVED,
    "zeropp_loco_param": REMOVED,
}
ZERO_ALIASES = {
    "cpu_offload_params": "cpu_offload_param",
    "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
    **{name.removeprefix("stage3_"): name for name in ZERO if name.startswith("stage3_")},
}

OFFLOAD: Table = {
    "device": Take(),
    "nvme_path": Take(),
    "pin_memory": Take(),
    "buffer_count": Keep(integer),
    "buffer_size": Keep(integer),
    "max_in_cpu": Keep(integer),
    "pipeline_read": Keep(boolean),
    "pipeline_write": Keep(boolean),
    "pipeline": Keep(boolean),
    "fast_init": Keep(boolean),
    "ratio": Keep(plain_number),
    "super_offload": Refuse("it is for one kind of machine (Superchips)"),
    "cpuadam_cores_perc": Refuse("it belongs to super_offload"),
}

ACTIVATION_CHECKPOINTING: Table = {
    name: Refuse(f"recomputation is whole-layer: train.gradient_checkpointing=true ({why})")
    for name, why in {
        "partition_activations": "partitioning needs model parallelism",
        "contiguous_memory_optimization": "it belongs to partition_activations",
        "synchronize_checkpoint_boundary": "nothing is synchronized",
        "cpu_checkpointing": "activations stay on the device",
        "profile": "see profile=",
    }.items()
} | {"number_checkpoints": Settled()}  # a detail of contiguous_memory_optimization
TENSOR_PARALLEL: Table = {
    "autotp_size": Take(),
    "tp": Take(),
    "tp_overlap_comm": Settled(),
    "dtype": Settled(),  # of inference; training has the formats of fp16 and bf16
    "partition_config": Refuse("how modules are cut is strategy.tp_plan"),
    "preset_model": Refuse("how modules are cut is strategy.tp_plan"),
    "injection_policy_tuple": Refuse("how modules are cut is strategy.tp_plan"),
    "vocab_parallel_lm_head": Settled(),
    "vocab_parallel_ce_backend": Settled(),
    "keep_module_on_host": Refuse("the model is cut where it is"),
    "replace_with_kernel_inject": Refuse("kernels of inference are not used"),
}
TENSOR_PARALLEL_ALIASES = {"tensor_parallel": "tp", "kernel_inject": "replace_with_kernel_inject"}
TP: Table = {"tp_size": Take(), "tp_grain_size": Settled()}

# `enabled`, `disable`, `backend` and `kwargs` are of DeepSpeed 0.14, the rest is DeepCompile's.
_DEEP = Refuse("DeepCompile is not used; train.compile is torch.compile")
COMPILE: Table = {
    "enabled": Take(),
    "disable": Take(),
    "backend": Refuse("the model is compiled by inductor", ok=("inductor",)),
    "kwargs": Refuse("torch.compile is used with its defaults"),
    "deepcompile": _DEEP,
    "passes": _DEEP,
    "autoep_non_moe": _DEEP,
    **dict.fromkeys(
        (
            "free_activation", "free_activation_threshold", "offload_activation",
            "offload_activation_pin_memory", "offload_opt_states", "double_buffer", "symmetric_memory",
            "debug_log", "offload_parameters", "sync_before_reduce", "sync_after_reduce",
            "sync_before_allgather", "sync_after_allgather", "keep_int_input_tensors",
            "keep_all_input_tensors",
        ),
        Settled(),
    ),
}  # fmt: skip

# Options that ask for output: of no use without DeepSpeed, but somebody would wait for it.
REPORTS = (
    "wall_clock_breakdown", "memory_breakdown", "dump_state", "timers", "comms_logger", "flops_profiler"
)  # fmt: skip
DATA_TYPES: Table = {
    "grad_accum_dtype": Refuse("gradients are accumulated in fp32", ok=("fp32", "float32")),
    "param_dtype": FP32_MASTERS,
    "buffer_dtype": FP32_MASTERS,
}

OPTIMIZER: Table = {"type": Take(), "params": Take(), "legacy_fusion": Keep(boolean)}
ADAM: Table = {
    "lr": Take(),
    "betas": Take(),
    "eps": Take(),
    "weight_decay": Take(),
    "torch_adam": Keep(boolean),
    "fp32_optimizer_states": Refuse("optimizer state is fp32 under every strategy", ok=(True, "true")),
    "adam_w_mode": Take(),
    "bias_correction": Take(),
    "amsgrad": Refuse("the optimizer is AdamW without amsgrad"),
    "max_grad_norm": Refuse("gradients are clipped by gradient_clipping"),
}

SCHEDULER: Table = {"type": Take(), "params": Take()}
WARMUP: Table = {
    "warmup_min_lr": Refuse("warm-up starts at zero", ok=(0, "0")),
    "warmup_min_ratio": Take(),
    "cos_min_ratio": Take(),
    "warmup_type": Refuse("warm-up is linear", ok=("linear",)),
    "warmup_max_lr": Take(),
    "warmup_num_steps": Take(),
    "total_num_steps": Take(),
    "last_batch_iteration": Refuse("the step is restored from the checkpoint", ok=(-1,)),
}
SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
"""DeepSpeed's schedules -> `schedule.kind`."""

STAGES = {0: "none", 1: "optimizer", 2: "grads", 3: "params"}
"""`zero_optimization.stage` -> `strategy.shard`."""
