"""Accelerate's YAML: aliases, traps, processes, and everything it may say that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.interop.accelerate_keys import FSDP_ALIASES
from galley.interop.export import export_strategy
from galley.spec import ClusterFacts
from galley.strategy.layout import resolve_layout
from tests.unit.galley.interop.files import (
    accelerate_file,
    compose,
    deepspeed_file,
    fsdp,
    problem,
    problems,
    zero,
)

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
        ("dynamo_config.dynamo_backend", {"dynamo_config": {"dynamo_backend": "CUDAGRAPHS"}}),
        ("dynamo_config.dynamo_mode", {"dynamo_config": {"dynamo_mode": "max-autotune"}}),
        ("dynamo_backend", {"dynamo_backend": "IPEX"}),
        ("tp_config", {"distributed_type": "FSDP", "tp_config": {"tp_size": 2}}),
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


@pytest.mark.parametrize(
    "config",
    [
        GPUS,
        {"distributed_type": "FSDP", "use_cpu": False},
        {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}, "use_cpu": False},
    ],
)
def test_a_file_of_gpus_is_of_gpus_on_a_login_node_too(tmp_path: Path, config: dict[str, Any]) -> None:
    """Without a GPU the command ends, rather than train on one CPU rank a core."""
    override = accelerate_file(tmp_path, config)
    recipe = compose(override)
    assert recipe.cluster.device == "cuda"
    login = ClusterFacts("login", gpus=0, gpu_memory_gib=0.0, physical_cores=16, memory_gib=64.0)
    with pytest.raises(ConfigError, match="no CUDA device on login"):
        resolve_layout(recipe, login)
    assert compose(override, "cluster.device=auto").cluster.device == "auto"


def test_where_it_runs_may_be_said_otherwise_on_the_command_line(tmp_path: Path) -> None:
    config = {"num_machines": 2, "num_processes": 16, "main_process_ip": "10.0.0.1", "rdzv_backend": "c10d"}
    override = accelerate_file(tmp_path, GPUS | config)
    shared = compose(override)
    assert (shared.cluster.nodes, shared.cluster.procs_per_node) == (2, 8)
    found = (shared.launcher.torchrun.rendezvous, shared.launcher.torchrun.backend)
    assert found == ("10.0.0.1:29500", "c10d")
    four = compose(override, "cluster.nodes=4", "launcher.torchrun.rendezvous=other:1")
    assert (four.cluster.nodes, four.cluster.procs_per_node) == (4, 8)
    assert four.launcher.torchrun.rendezvous == "other:1"
    alone = compose(override, "cluster.nodes=1")
    assert (alone.cluster.nodes, alone.launcher.torchrun.rendezvous) == (1, None)
    slurm = compose(override, "launcher=slurm")
    assert (slurm.launcher.kind, slurm.launcher.torchrun.rendezvous) == ("slurm", None)
    assert "precision.compute is 'fp32' here" in problem(
        accelerate_file(tmp_path, GPUS | {"mixed_precision": "bf16"}), "precision=fp32"
    )


def test_a_port_of_one_machine_asks_for_nothing(tmp_path: Path) -> None:
    config = GPUS | {"num_machines": 1, "main_process_ip": "localhost", "main_process_port": 29501}
    assert compose(accelerate_file(tmp_path, config)).launcher.torchrun.rendezvous is None


def test_a_model_is_compiled_by_inductor_or_not(tmp_path: Path) -> None:
    for config in ({"dynamo_backend": "inductor"}, {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}):
        found = compose(accelerate_file(tmp_path, GPUS | config))
        assert found.train.compile
        written = tmp_path / "written.yaml"
        written.write_text(export_strategy(found, "accelerate"))
        assert compose(f"strategy.accelerate_config={written}").train.compile
        with pytest.raises(ConfigError, match=r"train\.compile: cannot be written as --format deepspeed"):
            export_strategy(found, "deepspeed")
    assert not compose(accelerate_file(tmp_path, GPUS | {"dynamo_backend": False})).train.compile


LLAMA = ("model.architecture=llama", "model.tokenizer=characters", "task=causal_lm", "data=pydoc_text")


@pytest.mark.parametrize(
    "config",
    [
        GPUS | {"parallelism_config": {"parallelism_config_tp_size": 2}},
        {"distributed_type": "TP", "tp_config": {"tp_size": 2}},
    ],
)
def test_a_size_of_tensor_parallel(tmp_path: Path, config: dict[str, Any]) -> None:
    found = compose(accelerate_file(tmp_path, config), *LLAMA).strategy
    assert (found.engine, found.tensor_parallel) == ("torch", 2)


def test_tensor_parallel_beside_fsdp_is_refused_in_one_sentence(tmp_path: Path) -> None:
    config = fsdp(fsdp_version=2) | {"parallelism_config": {"parallelism_config_tp_size": 2}}
    found = problem(accelerate_file(tmp_path, config), *LLAMA)
    assert "is not combined with fsdp" in found


def test_remarks_and_equal_keys_ask_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "acc.yaml"
    file.write_text("_comment: ours\ndistributed_type: MULTI_CPU\ndebug: false\ndebug: false\n")
    assert compose(f"strategy.accelerate_config={file}").strategy.name == "ddp"
