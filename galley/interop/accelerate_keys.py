"""The keys of an Accelerate configuration, and what becomes of each.

Names as Accelerate 1.15.0 reads them: `accelerate/commands/config/{config_args,cluster,sagemaker}.py`,
`commands/launch.py`, `utils/dataclasses.py`; and those of older versions back to 0.28 (`ipex_config`,
`fp16`, `dynamo_backend`, other names of the FSDP keys).
"""

from __future__ import annotations

from galley.interop.reading import Refuse, Settled, Table, Take

TPU = Refuse("TPUs are not supported")
MEGATRON = Refuse("Megatron-LM is not an engine here")
HOSTS = Refuse("hosts are the launcher's to know: see cluster.*")
SAGEMAKER = Refuse("belongs to SageMaker, which is not supported")

TOP: Table = {
    "compute_environment": Take(),
    "distributed_type": Take(),
    "mixed_precision": Take(),
    "fp16": Take(),
    "num_machines": Take(),
    "num_processes": Take(),
    "use_cpu": Take(),
    "gpu_ids": Take(),
    "deepspeed_config": Take(),
    "fsdp_config": Take(),
    "parallelism_config": Take(),
    "fp8_config": Take(),
    "mpirun_config": Take(),
    "ipex_config": Take(),
    "dynamo_config": Take(),
    "dynamo_backend": Take(),
    "tp_config": Take(),
    "main_process_ip": Take(),
    "main_process_port": Take(),
    "rdzv_backend": Take(),
    "machine_rank": Settled(),
    "main_training_function": Settled(),
    "same_network": Settled(),
    "deepspeed_hostfile": HOSTS,
    "debug": Refuse("to see what hangs, set launcher.env.TORCH_DISTRIBUTED_DEBUG=DETAIL"),
    "enable_cpu_affinity": Refuse("binding to cores is the launcher's"),
    "megatron_lm_config": MEGATRON,
    "use_mps_device": Refuse("Apple's GPUs are not supported"),
    "downcast_bf16": Refuse("it is for TPUs, which are not supported; precision=bf16 is the format"),
    "tpu_name": TPU,
    "tpu_zone": TPU,
    "tpu_use_cluster": TPU,
    "tpu_use_sudo": TPU,
    "tpu_vm": TPU,
    "tpu_env": TPU,
    "commands": TPU,
    "command_file": TPU,
    "ec2_instance_type": SAGEMAKER,
    "iam_role_name": SAGEMAKER,
    "image_uri": SAGEMAKER,
    "profile": SAGEMAKER,
    "region": SAGEMAKER,
    "base_job_name": SAGEMAKER,
    "pytorch_version": SAGEMAKER,
    "transformers_version": SAGEMAKER,
    "py_version": SAGEMAKER,
    "sagemaker_inputs_file": SAGEMAKER,
    "sagemaker_metrics_file": SAGEMAKER,
    "additional_args": SAGEMAKER,
}

DEEPSPEED: Table = {
    "zero_stage": Take(),
    "gradient_accumulation_steps": Take(),
    "gradient_clipping": Take(),
    "offload_optimizer_device": Take(),
    "offload_param_device": Take(),
    "offload_optimizer_nvme_path": Take(),
    "offload_param_nvme_path": Take(),
    "zero3_init_flag": Take(),
    "zero3_save_16bit_model": Take(),
    "deepspeed_config_file": Take(),
    "deepspeed_multinode_launcher": Refuse("the launcher is chosen by launcher=", ok=("standard",)),
    "deepspeed_hostfile": HOSTS,
    "deepspeed_exclusion_filter": HOSTS,
    "deepspeed_inclusion_filter": HOSTS,
    "deepspeed_moe_layer_cls_names": Refuse(
        "set strategy.engine_options.zero_optimization.leaf_module.classes instead"
    ),
}

FSDP: Table = {
    "fsdp_version": Take(),
    "fsdp_sharding_strategy": Take(),
    "fsdp_reshard_after_forward": Take(),
    "fsdp_offload_params": Take(),
    "fsdp_auto_wrap_policy": Take(),
    "fsdp_transformer_layer_cls_to_wrap": Take(),
    "fsdp_min_num_params": Take(),
    "fsdp_state_dict_type": Take(),
    "fsdp_sync_module_states": Take(),
    "fsdp_cpu_ram_efficient_loading": Take(),
    "fsdp_activation_checkpointing": Take(),
    "fsdp_forward_prefetch": Take(),
    "fsdp_backward_prefetch": Refuse(
        "FSDP2 gathers the next layer before the backward of this one", ok=("BACKWARD_PRE", 1, "1")
    ),
    "fsdp_use_orig_params": Take(),
    "fsdp_activation_checkpointing_offload": Refuse("activations stay on the device"),
    "fsdp_ignored_modules": Refuse("every module is partitioned"),
    "xla": TPU,
    "xla_fsdp_v2": TPU,
    "xla_fsdp_settings": TPU,
    "xla_fsdp_grad_ckpt": TPU,
}
FSDP_ALIASES = {
    "fsdp_wrap_policy": "fsdp_auto_wrap_policy",
    "fsdp_backward_prefetch_policy": "fsdp_backward_prefetch",
    "fsdp_transformer_cls_to_wrap": "fsdp_transformer_layer_cls_to_wrap",
    "fsdp_min_num_param": "fsdp_min_num_params",
    "min_num_params": "fsdp_min_num_params",
    "min_num_param": "fsdp_min_num_params",
}
# Counted from 1, in the order of torch.distributed.fsdp.ShardingStrategy.
SHARDING_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
WRAP_POLICIES = ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP")
STATE_DICT_TYPES = ("FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT")

PARALLELISM: Table = {
    "parallelism_config_dp_replicate_size": Take(),
    "parallelism_config_dp_shard_size": Take(),
    "parallelism_config_tp_size": Take(),
    "parallelism_config_cp_size": Refuse("there is no context parallelism here", ok=(1,)),
    "parallelism_config_sp_size": Refuse("there is no sequence parallelism here", ok=(1,)),
    "parallelism_config_cp_backend": Settled(),
    "parallelism_config_cp_comm_strategy": Settled(),
    "parallelism_config_sp_backend": Settled(),
    "parallelism_config_sp_seq_length": Settled(),
    "parallelism_config_sp_seq_length_is_variable": Settled(),
    "parallelism_config_sp_attn_implementation": Settled(),
}

FP8: Table = {
    "backend": Take(),
    **dict.fromkeys(
        (
            "amax_compute_algorithm",
            "amax_history_length",
            "fp8_format",
            "interval",
            "margin",
            "override_linear_precision",
            "use_autocast_during_eval",
            "optimization_level",
            "enable_fsdp_float8_all_gather",
            "pad_inner_dim",
        ),
        Settled(),
    ),
}
FP8_ALIASES = {"amax_history_len": "amax_history_length", "amax_compute_algo": "amax_compute_algorithm"}

MPIRUN: Table = {"mpirun_hostfile": Take(), "mpirun_ccl": Take()}
IPEX: Table = {
    "ipex": Refuse("Accelerate 1.15 has removed IPEX, and torch's own CPU kernels have taken its place"),
    "use_xpu": Refuse("Intel GPUs (xpu) are not supported"),
}
TENSOR_PARALLEL: Table = {"tp_size": Take()}
_COMPILED = "models are compiled by torch.compile with its defaults, for batches of any length"
DYNAMO: Table = {
    "dynamo_backend": Take(),
    "dynamo_mode": Refuse(_COMPILED, ok=("default",)),
    "dynamo_use_fullgraph": Refuse(_COMPILED),
    "dynamo_use_dynamic": Settled(),
    "dynamo_use_regional_compilation": Settled(),
}
