"""Accelerate's YAML: aliases, traps, processes, and everything it may say that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.interop.accelerate_keys import FSDP_ALIASES
from tests.unit.interop.files import accelerate_file, compose, deepspeed_file, fsdp, problem, problems, zero

GPUS = {"distributed_type": "MULTI_GPU"}


@pytest.mark.parametrize("text", ["no", "NO", "'no'", "false"])
def test_no_is_full_precision_quoted_or_not(tmp_path: Path, text: str) -> None:
    """YAML reads an unquoted no as false."""
    file = tmp_path / "acc.yaml"
    file.write_text(f"distributed_type: MULTI_GPU\nmixed_precision: {text}\ndowncast_bf16: {text}\n")
    assert compose(f"strategy.accelerate_config={file}").precision.compute == "fp32"


def test_distributed_type_no_is_one_process_quoted_or_not(tmp_path: Path) -> None:
    for kind in ("NO", False):
        found = compose(accelerate_file(tmp_path, {"distributed_type": kind}))
        assert (found.strategy.name, found.strategy.data_parallel) == ("single", False)


@pytest.mark.parametrize(("alias", "name"), FSDP_ALIASES.items())
def test_other_names_of_older_versions(tmp_path: Path, alias: str, name: str) -> None:
    value: Any = {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 1000}.get(
        name, "BACKWARD_PRE" if "prefetch" in name else "BertLayer"
    )
    by_alias = compose(accelerate_file(tmp_path, fsdp(**{alias: value})))
    assert by_alias == compose(accelerate_file(tmp_path, fsdp(**{name: value})))


def test_a_key_and_its_other_name_must_agree(tmp_path: Path) -> None:
    both = fsdp(fsdp_wrap_policy="NO_WRAP", fsdp_auto_wrap_policy="SIZE_BASED_WRAP")
    assert "its other name fsdp_auto_wrap_policy" in problem(accelerate_file(tmp_path, both))


def test_amax_history_len_is_known_and_other_keys_of_fp8_are_not(tmp_path: Path) -> None:
    assert compose(accelerate_file(tmp_path, {**GPUS, "fp8_config": {"amax_history_len": 16}}))
    found = problem(accelerate_file(tmp_path, {**GPUS, "fp8_config": {"amax_history_lenght": 16}}))
    assert "'fp8_config.amax_history_lenght' (did you mean 'amax_history_length'?)" in found


def test_all_unknown_keys_are_named_at_once_with_the_nearest(tmp_path: Path) -> None:
    config = fsdp(fsdp_sharding_stategy=1) | {"num_proceses": 2, "nonsense": None}
    found = problem(accelerate_file(tmp_path, config))
    assert "3 unknown keys" in found
    assert "'fsdp_config.fsdp_sharding_stategy' (did you mean 'fsdp_sharding_strategy'?)" in found
    assert "'num_proceses' (did you mean 'num_processes'?)" in found
    assert "'nonsense'" in found


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("compute_environment", {"compute_environment": "AMAZON_SAGEMAKER"}),
        ("distributed_type", {"distributed_type": "TPU"}),
        ("distributed_type", {"distributed_type": "XLA"}),
        ("distributed_type", {"distributed_type": "MEGATRON_LM"}),
        ("tpu_name", {"tpu_name": "v4"}),
        ("tpu_use_cluster", {"tpu_use_cluster": True}),
        ("downcast_bf16", {"downcast_bf16": "yes"}),
        ("mixed_precision", {"mixed_precision": "fp8"}),
        ("mixed_precision", {"mixed_precision": "fp4"}),
        ("ipex_config.ipex", {"ipex_config": {"ipex": True}}),
        ("dynamo_config.dynamo_backend", {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}),
        ("megatron_lm_config", {"megatron_lm_config": {"megatron_lm_tp_degree": 2}}),
        ("enable_cpu_affinity", {"enable_cpu_affinity": True}),
        ("debug", {"debug": True}),
        ("fsdp_config", {"fsdp_config": {"fsdp_sharding_strategy": 1}}),
        ("deepspeed_config", {"deepspeed_config": {"zero_stage": 2}}),
        ("num_processes", {"num_machines": 2, "num_processes": 3}),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(tmp_path: Path, name: str, config: Any) -> None:
    assert f"({name}): " in problem(accelerate_file(tmp_path, GPUS | config))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsdp_sharding_strategy", 6),
        ("fsdp_sharding_strategy", "FULL"),
        ("fsdp_sharding_strategy", True),
        ("fsdp_min_num_params", 1.5),
        ("fsdp_ignored_modules", "head.*"),
        ("fsdp_activation_checkpointing_offload", True),
        ("xla_fsdp_v2", True),
    ],
)
def test_wrong_and_refused_values_of_fsdp(tmp_path: Path, name: str, value: object) -> None:
    assert f"(fsdp_config.{name}): " in problem(accelerate_file(tmp_path, fsdp(**{name: value})))


def test_off_is_no_obstacle(tmp_path: Path) -> None:
    off = {
        "tpu_env": [],
        "tpu_use_sudo": False,
        "ipex_config": {"ipex": False},
        "dynamo_config": {"dynamo_backend": "NO"},
        "fsdp_config": {},
        "deepspeed_config": None,
        "main_process_ip": None,
        "rdzv_backend": "c10d",
    }
    assert compose(accelerate_file(tmp_path, GPUS | off)).strategy.name == "ddp"


def test_processes_of_all_machines_are_counted_together(tmp_path: Path) -> None:
    config = {"distributed_type": "MULTI_CPU", "num_machines": 4, "num_processes": 16}
    cluster = compose(accelerate_file(tmp_path, config)).cluster
    assert (cluster.nodes, cluster.procs_per_node, cluster.device) == (4, 4, "cpu")


def test_gpu_ids_are_the_visible_devices(tmp_path: Path) -> None:
    found = compose(accelerate_file(tmp_path, GPUS | {"gpu_ids": "0,2"}))
    assert found.launcher.env["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert (
        "CUDA_VISIBLE_DEVICES"
        not in compose(accelerate_file(tmp_path, GPUS | {"gpu_ids": "all"})).launcher.env
    )


def test_replicas_of_shards(tmp_path: Path) -> None:
    sizes = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 4}
    config = fsdp(fsdp_version=2) | {"parallelism_config": sizes, "num_processes": 8}
    found = compose(accelerate_file(tmp_path, config)).strategy
    assert (found.name, found.hybrid, found.hybrid_shard_size) == ("fsdp_hybrid", True, 4)
    config["num_processes"] = 4
    assert "2 × dp_shard_size 4 is not num_processes 4" in problems(accelerate_file(tmp_path, config))[0]


def test_the_deepspeed_file_is_looked_for_beside_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    deepspeed_file(tmp_path / "sub", zero(2, bf16={"enabled": True}))
    config: dict[str, Any] = {"distributed_type": "DEEPSPEED"}
    config["deepspeed_config"] = {"deepspeed_config_file": "sub/ds.json"}
    found = compose(accelerate_file(tmp_path, config))
    assert (found.strategy.name, found.precision.compute) == ("zero2", "bf16")


def test_the_yaml_and_its_deepspeed_file_must_agree(tmp_path: Path) -> None:
    deepspeed_file(tmp_path, zero(3, bf16={"enabled": True}))
    block = {"deepspeed_config_file": "ds.json", "zero_stage": 2}
    config = {"distributed_type": "DEEPSPEED", "mixed_precision": "fp16", "deepspeed_config": block}
    found = "\n".join(problems(accelerate_file(tmp_path, config)))
    assert "(bf16.enabled): sets precision.compute to 'bf16'" in found
    assert "(mixed_precision) sets it to 'fp16'" in found
    assert "sets strategy.shard to 'params'" in found


def test_a_deepspeed_file_beside_another_type_is_not_dropped_in_silence(tmp_path: Path) -> None:
    overrides = (accelerate_file(tmp_path, GPUS), deepspeed_file(tmp_path, zero()))
    assert "is not used: distributed_type of" in problem(*overrides)


def test_a_key_given_twice_and_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "acc.yaml"
    override = f"strategy.accelerate_config={file}"
    file.write_text("distributed_type: FSDP\nfsdp_config:\n  a: 1\n  a: 2\n")
    assert problem(override).startswith(f"{file}:4: 'a' is given twice")
    file.write_text("a: [1\n")
    assert "not valid YAML" in problem(override)
    file.write_text(json.dumps([1]))
    assert "holds a list" in problem(override)
    file.write_text("")
    assert "(distributed_type): is missing" in problem(override)
