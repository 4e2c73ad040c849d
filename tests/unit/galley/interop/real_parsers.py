"""What DeepSpeed and Accelerate themselves read from the files of a folder, its only argument.

Prints one JSON object, file name -> facts. A process of its own: it imports both, and torch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def deepspeed_facts(file: Path) -> dict[str, Any]:
    """Through `DeepSpeedConfig`, which checks every name and type under `zero_optimization`."""
    from deepspeed.runtime.config import DeepSpeedConfig

    config = DeepSpeedConfig(str(file))
    zero = config.zero_config
    offload = {name: getattr(zero, name) for name in ("offload_optimizer", "offload_param")}
    return {
        "stage": int(zero.stage),
        "batch": [config.train_batch_size, config.gradient_accumulation_steps],
        "clip": config.gradient_clipping,
        "bf16": config.bfloat16_config.enabled,
        "fp16": config.float16_config.enabled,
        "optimizer": [config.optimizer_name, config.optimizer_params["lr"]],
        "scheduler": config.scheduler_name,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": zero.reduce_bucket_size,
        **{name: value and str(value.device) for name, value in offload.items()},
    }


def accelerate_facts(file: Path) -> dict[str, Any]:
    """As `accelerate launch --config_file` does: its parser, its environment, its plugin."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    args = launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    args.main_process_port = 0  # a free one
    args, defaults, states_precision = _validate_launch_command(args)
    fields = [*(defaults.deepspeed_config or {}), *(["mixed_precision"] if states_precision else [])]
    args.deepspeed_fields_from_accelerate_config = ",".join(fields)  # as `launch_command` sets it
    facts = {"processes": args.num_processes, "precision": args.mixed_precision}
    if args.use_deepspeed:
        return facts | _zero_plugin(args)
    if args.use_fsdp:
        return facts | _fsdp_plugin(args)
    return facts | {"multi_gpu": bool(args.multi_gpu)}


def _zero_plugin(args: Any) -> dict[str, Any]:
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    os.environ.update(prepare_deepspeed_cmd_env(args)[1])
    plugin = DeepSpeedPlugin()
    devices = {name: getattr(plugin, f"{name}_device") for name in ("offload_optimizer", "offload_param")}
    return {"stage": plugin.zero_stage, "zero3_init": plugin.zero3_init_flag, **devices}


def _fsdp_plugin(args: Any) -> dict[str, Any]:
    """Accelerate refuses to make the plugin of FSDP1 where there is no GPU: then what it would read."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    environment = prepare_multi_gpu_env(args)
    if environment["FSDP_VERSION"] == "1":
        names = ("SHARDING_STRATEGY", "SYNC_MODULE_STATES", "FORWARD_PREFETCH")
        return {"version": 1} | {name.lower(): environment[f"FSDP_{name}"] for name in names}
    os.environ.update(environment)
    plugin = FullyShardedDataParallelPlugin()
    return {
        "version": plugin.fsdp_version,
        "reshard": plugin.reshard_after_forward,
        "offload": type(plugin.cpu_offload).__name__,
        "classes": plugin.transformer_cls_names_to_wrap,
        "min_num_params": plugin.min_num_params,
        "ram_efficient": plugin.cpu_ram_efficient_loading,
        "state_dict": plugin.state_dict_type.name,
    }


def main(folder: Path) -> None:
    """Each file alone: a plugin leaves its settings in the environment."""
    clean = dict(os.environ)
    found = {}
    for file in sorted(folder.iterdir()):
        os.environ.clear()
        os.environ.update(clean)
        found[file.name] = deepspeed_facts(file) if file.suffix == ".json" else accelerate_facts(file)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
