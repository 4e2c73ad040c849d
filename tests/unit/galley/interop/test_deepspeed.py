"""DeepSpeed's JSON: values, mistakes, and everything it may say that is refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from galley import interop
from galley.config.keys import is_known, leaf_types, sections
from galley.interop.deepspeed_keys import TOP, ZERO
from tests.unit.galley.interop.files import compose, deepspeed_file, problem, problems, zero


@pytest.mark.parametrize("word", ["true", "True", True, 1])
def test_a_string_is_read_as_the_boolean_it_means(tmp_path: Path, word: object) -> None:
    assert compose(deepspeed_file(tmp_path, zero(fp16={"enabled": word}))).precision.compute == "fp16"


@pytest.mark.parametrize(
    ("blocks", "compute"),
    [
        ({"bf16": {"enabled": True}, "fp16": {"enabled": "auto"}}, "bf16"),
        ({"bfloat16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": "false"}, "bf16": {"enabled": False}}, "fp32"),
        ({"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}}, "auto"),
    ],
)
def test_precision(tmp_path: Path, blocks: dict[str, Any], compute: str) -> None:
    assert compose(deepspeed_file(tmp_path, zero(**blocks))).precision.compute == compute


def test_what_the_file_states_overrides_defaults_and_auto_does_not(tmp_path: Path) -> None:
    adamw = {"type": "AdamW", "params": {"lr": "auto", "betas": [0.8, 0.99], "eps": "1e-6"}}
    found = compose(deepspeed_file(tmp_path, zero(optimizer=adamw)), "optim.lr=3e-5").optim
    assert (found.lr, found.betas, found.eps) == (3e-5, (0.8, 0.99), 1e-6)


def test_an_optimizer_that_accelerate_would_stand_in_for_is_adamw(tmp_path: Path) -> None:
    for kind in ("Adam", "AdamW", "adamw"):
        assert compose(deepspeed_file(tmp_path, zero(optimizer={"type": kind}))).strategy.name == "zero2"
    lamb = problem(deepspeed_file(tmp_path, zero(optimizer={"type": "Lamb"})))
    assert "(optimizer.type): 'Lamb' is not an optimizer here" in lamb
    plain = {"type": "Adam", "params": {"adam_w_mode": False}}
    assert "(optimizer.params.adam_w_mode)" in problem(deepspeed_file(tmp_path, zero(optimizer=plain)))


@pytest.mark.parametrize(
    ("kind", "params", "schedule", "steps"),
    [
        ("WarmupLR", {"warmup_num_steps": 10}, "constant", None),
        ("WarmupDecayLR", {"warmup_num_steps": 10, "total_num_steps": 100}, "linear", 100),
        ("WarmupCosineLR", {"warmup_num_steps": 10, "total_num_steps": 100}, "cosine", 100),
    ],
)
def test_schedulers(
    tmp_path: Path, kind: str, params: dict[str, Any], schedule: str, steps: int | None
) -> None:
    override = deepspeed_file(tmp_path, zero(scheduler={"type": kind, "params": params}))
    found = compose(override, "schedule.warmup_ratio=null")
    assert (found.schedule.kind, found.schedule.warmup_steps) == (schedule, 10)
    assert found.train.max_steps == steps


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"warmup_type": "log"}, "warmup_type"),
        ({"warmup_min_lr": 1e-6}, "warmup_min_lr"),
    ],
)
def test_a_schedule_of_another_shape_is_refused(tmp_path: Path, params: dict[str, Any], name: str) -> None:
    override = deepspeed_file(tmp_path, zero(scheduler={"type": "WarmupCosineLR", "params": params}))
    assert f"(scheduler.params.{name})" in problem(override)
    override = deepspeed_file(tmp_path, zero(scheduler={"type": "OneCycle"}))
    assert "valid: WarmupLR, WarmupDecayLR, WarmupCosineLR" in problem(override)


def test_a_cosine_may_begin_and_end_above_zero(tmp_path: Path) -> None:
    params = {"warmup_num_steps": 10, "warmup_min_ratio": 0.05, "cos_min_ratio": 0.1}
    override = deepspeed_file(tmp_path, zero(scheduler={"type": "WarmupCosineLR", "params": params}))
    found = compose(override, "schedule.warmup_ratio=null").schedule
    assert (found.warmup_from, found.min_ratio) == (0.05, 0.1)


def test_two_learning_rates_in_one_file_must_agree(tmp_path: Path) -> None:
    blocks = {
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 2e-4}},
    }
    found = problems(deepspeed_file(tmp_path, zero(**blocks)))[0]
    assert "(scheduler.params.warmup_max_lr): sets optim.lr to 0.0002" in found
    assert "(optimizer.params.lr) sets it to 0.0001" in found


def test_all_unknown_keys_are_named_at_once_with_the_nearest(tmp_path: Path) -> None:
    config = {
        "zero_optimization": {"stage": 2, "overlap_com": True},
        "gradient_cliping": 1,
        "fp16": {"enable": 1},
    }
    found = problem(deepspeed_file(tmp_path, config))
    assert "3 unknown keys" in found
    assert "'gradient_cliping' (did you mean 'gradient_clipping'?)" in found
    assert "'zero_optimization.overlap_com' (did you mean 'overlap_comm'?)" in found
    assert "'fp16.enable' (did you mean 'enabled'?)" in found


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("activation_checkpointing.partition_activations", {"partition_activations": True}),
        ("activation_checkpointing.cpu_checkpointing", {"cpu_checkpointing": "true"}),
        ("elasticity", {"enabled": True}),
        ("pipeline", {"stages": 2}),
        ("amp", {"enabled": True}),
        ("tensorboard", {"enabled": True}),
        ("data_types.grad_accum_dtype", {"grad_accum_dtype": "bf16"}),
        ("gradient_allreduce_op", "sum"),
        ("zero_optimization.zero_quantized_weights", {"stage": 3, "zero_quantized_weights": True}),
        ("zero_optimization.zero_hpz_partition_size", {"stage": 3, "zero_hpz_partition_size": 8}),
        ("zero_optimization", True),
        ("fp16.fp16_master_weights_and_grads", {"enabled": True, "fp16_master_weights_and_grads": True}),
        ("fp16.loss_scale", {"enabled": True, "loss_scale": 1024}),
        ("bf16.bf16_master_weights_and_grads", {"enabled": True, "bf16_master_weights_and_grads": True}),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(tmp_path: Path, name: str, config: Any) -> None:
    found = problem(deepspeed_file(tmp_path, zero() | {name.split(".")[0]: config}))
    assert f"({name}): " in found


def test_a_feature_that_is_switched_off_is_no_obstacle(tmp_path: Path) -> None:
    off = {
        "activation_checkpointing": {"partition_activations": False, "number_checkpoints": None},
        "elasticity": {"enabled": "false"},
        "tensorboard": {"enabled": False},
        "amp": {},
        "dataloader_drop_last": False,
    }
    assert compose(deepspeed_file(tmp_path, zero(**off))).strategy.engine_options == {}


def test_stage_0_partitions_nothing_and_auto_is_the_recipe_s(tmp_path: Path) -> None:
    assert compose(deepspeed_file(tmp_path, zero(0))).strategy.name == "ddp"
    assert compose(deepspeed_file(tmp_path, zero("auto")), "strategy=zero2").strategy.name == "zero2"
    assert "states no stage" in problems(deepspeed_file(tmp_path, {}))[0]


def test_old_offload_keys(tmp_path: Path) -> None:
    config = {"zero_optimization": {"stage": 3, "cpu_offload": True, "cpu_offload_params": "true"}}
    found = compose(deepspeed_file(tmp_path, config)).strategy
    assert (found.name, found.offload_optimizer, found.offload_params) == ("zero3_offload", "cpu", "cpu")


def test_two_nvme_drives_keep_their_paths(tmp_path: Path) -> None:
    drives = {
        name: {"device": "nvme", "nvme_path": f"/{name}"} for name in ("offload_optimizer", "offload_param")
    }
    found = compose(deepspeed_file(tmp_path, {"zero_optimization": {"stage": 3, **drives}})).strategy
    assert found.offload_nvme_path == "/offload_optimizer"
    options = found.engine_options["zero_optimization"]
    assert options == {"offload_param": {"nvme_path": "/offload_param"}}


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    override = f"strategy.deepspeed_config={file}"
    assert "does not exist" in problem(override)
    for text, what in {
        '{"a": 1': "not valid JSON",
        '"a": {': "not valid JSON",
        "zero": "not valid JSON",
        "[1]": "holds a list",
        '{"zero_optimization": {"stage": 1, "stage": 2}}': "'stage' is given twice",
        '{\n"zero_optimization":\n{"stage": 7}}': f"{file}:3 (zero_optimization.stage): 7 is not",
    }.items():
        file.write_text(text)
        assert what in problems(override)[0]
    file.write_text('\ufeff{\t"zero_optimization": {"stage": 2}}', encoding="utf-8")
    assert compose(override).strategy.name == "zero2"


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs the extra `train`")
def test_the_table_knows_every_field_of_the_installed_deepspeed() -> None:
    """Read from its source: importing it would take seconds."""
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "runtime" / "zero" / "config.py").read_text()
    body = source[source.index("class DeepSpeedZeroConfig") :]
    fields = {
        line.split(":")[0].strip() for line in body.splitlines() if line.startswith("    ") and ": " in line
    }
    fields = {name for name in fields if name.isidentifier() and f"\n    {name}: " in body}
    from galley.interop.deepspeed_keys import ZERO_ALIASES

    assert len(fields) > 40
    assert fields <= {*ZERO, *ZERO_ALIASES}
    assert "zero_optimization" in TOP


def test_stage_0_is_ddp_with_whatever_only_tunes_deepspeed(tmp_path: Path) -> None:
    tuned = {"stage": 0, "allgather_bucket_size": 5e8, "overlap_comm": True, "reduce_scatter": True}
    config = {"zero_optimization": tuned, "steps_per_print": 100, "zero_allow_untested_optimizer": True}
    off = {"wall_clock_breakdown": False, "flops_profiler": {"enabled": False}}
    found = compose(deepspeed_file(tmp_path, config | off)).strategy
    assert (found.name, found.engine, found.engine_options) == ("ddp", "torch", {})
    loud = {"wall_clock_breakdown": True, "comms_logger": {"enabled": True}}
    said = problem(deepspeed_file(tmp_path, config | loud))
    assert "(wall_clock_breakdown): is DeepSpeed's, which does not carry stage 0" in said
    assert "the same holds for comms_logger" in said


def test_without_a_stage_there_is_one_problem(tmp_path: Path) -> None:
    config = {"train_micro_batch_size_per_gpu": 1, "steps_per_print": 10, "wall_clock_breakdown": True}
    assert "(zero_optimization.stage): states no stage" in problem(deepspeed_file(tmp_path, config))


HJSON = """{
  // as many write it
  "_comment": "two lines",
  "zero_optimization": {
    "stage": 2,       # gradients
    "//": "not a key",
    "overlap_comm": true,
    /* twice
       as large */
    "reduce_bucket_size": 1e9,
    "stage3_max_live_parameters": 1.5,
  },
  "bf16": {"enabled": true,}
}
"""


def test_comments_and_trailing_commas_are_read_as_deepspeed_does(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(HJSON)
    said = problem(f"strategy.deepspeed_config={file}")
    assert said.startswith(f"{file}:11 (zero_optimization.stage3_max_live_parameters): 1.5 is not")
    file.write_text(HJSON.replace("1.5", '"http://1" // no comment').replace('"http://1"', "15"))
    found = compose(f"strategy.deepspeed_config={file}")
    assert (found.strategy.name, found.precision.compute) == ("zero2", "bf16")
    assert found.strategy.engine_options["zero_optimization"] == {
        "overlap_comm": True, "reduce_bucket_size": 10**9, "stage3_max_live_parameters": 15
    }  # fmt: skip


def test_blocks_in_which_everything_is_off_ask_for_nothing(tmp_path: Path) -> None:
    shared = {"shared_parameters": {"enabled": False, "quantize_groups": 1}, "different_groups": {"a": {}}}
    inert = {
        "activation_checkpointing": {"partition_activations": False, "number_checkpoints": 4},
        "compression_training": {"weight_quantization": shared, "layer_reduction": {"enabled": False}},
    }
    assert compose(deepspeed_file(tmp_path, zero() | inert)).strategy.name == "zero2"
    shared["shared_parameters"]["enabled"] = True
    assert "(compression_training): it changes" in problem(deepspeed_file(tmp_path, zero() | inert))


@pytest.mark.parametrize(
    ("block", "compiled"),
    [
        ({"disable": False, "backend": "inductor"}, True),  # as axolotl's zero1_torch_compile.json
        ({"enabled": True}, True),
        ({"enabled": False, "backend": "inductor"}, False),
        ({"deepcompile": False, "debug_log": True}, False),
    ],
)
def test_a_model_is_compiled_where_the_file_says_so(
    tmp_path: Path, block: dict[str, Any], compiled: bool
) -> None:
    assert compose(deepspeed_file(tmp_path, zero(1, compile=block))).train.compile is compiled
    said = problem(deepspeed_file(tmp_path, zero(1, compile=block | {"deepcompile": True})))
    assert "(compile.deepcompile): DeepCompile is not used" in said


def test_tensor_parallel_of_a_file(tmp_path: Path) -> None:
    """With ZeRO it is refused; in stage 0 it is `tp`."""
    model = ("model.architecture=llama", "model.tokenizer=characters", "task=causal_lm", "data=pydoc_text")
    override = deepspeed_file(tmp_path, zero(0, tensor_parallel={"autotp_size": 2}))
    assert compose(override, *model).strategy.tensor_parallel == 2
    override = deepspeed_file(tmp_path, zero(1, tensor_parallel={"tp": {"tp_size": 2}}))
    assert "is not combined with deepspeed" in problem(override, *model)
    assert compose(deepspeed_file(tmp_path, zero(1, tensor_parallel={"autotp_size": 1})))


def test_every_key_that_files_are_read_into_exists() -> None:
    written = "\n".join(file.read_text() for file in Path(interop.__file__).parent.glob("*.py"))
    found = {*re.findall(r'"((?:' + "|".join(sections()) + r')\.[a-z0-9_.]+)"', written)}
    assert "strategy.offload_nvme_path" in found
    assert "launcher.mpi.hosts" in found
    known = {".".join(leaf.split(".")[:depth]) for leaf in leaf_types() for depth in range(1, 4)}
    assert [key for key in sorted(found) if key not in known and not is_known(key)] == []
