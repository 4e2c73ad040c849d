"""The table that sets FSDP beside DeepSpeed, a test a row: both files give one neutral description.

Rows of "Moving between FSDP and DeepSpeed", Accelerate's documentation,
https://huggingface.co/docs/accelerate/concept_guides/fsdp_and_deepspeed
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.interop.export import export_strategy
from galley.schema import Strategy
from tests.unit.galley.interop.files import (
    accelerate_file,
    compose,
    deepspeed_file,
    fsdp,
    problem,
    problems,
    zero,
)


def strategy(*overrides: str) -> Strategy:
    return compose(*overrides).strategy


def plugin(stage: int, **block: Any) -> dict[str, Any]:
    return {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": stage, **block}}


@pytest.mark.parametrize(
    ("number", "name", "stage", "shard"),
    [(1, "FULL_SHARD", 3, "params"), (2, "SHARD_GRAD_OP", 2, "grads"), (3, "NO_SHARD", 0, "none")],
)
def test_sharding_strategy_is_a_zero_stage(
    tmp_path: Path, number: int, name: str, stage: int, shard: str
) -> None:
    by_number = strategy(accelerate_file(tmp_path, fsdp(fsdp_sharding_strategy=number)))
    by_name = strategy(accelerate_file(tmp_path, fsdp(fsdp_sharding_strategy=name)))
    by_stage = strategy(deepspeed_file(tmp_path, zero(stage)))
    assert by_number == by_name
    assert by_name.shard == by_stage.shard == shard


@pytest.mark.parametrize(
    ("number", "name", "shard"), [(4, "HYBRID_SHARD", "params"), (5, "HYBRID_SHARD_ZERO2", "grads")]
)
def test_hybrid_shards_inside_a_node_and_has_no_zero_stage(
    tmp_path: Path, number: int, name: str, shard: str
) -> None:
    override = accelerate_file(tmp_path, fsdp(fsdp_sharding_strategy=number))
    assert strategy(override) == strategy(accelerate_file(tmp_path, fsdp(fsdp_sharding_strategy=name)))
    assert (strategy(override).shard, strategy(override).hybrid) == (shard, True)
    with pytest.raises(Exception, match=r"strategy\.hybrid: cannot be written as --format deepspeed"):
        export_strategy(compose(override), "deepspeed")


@pytest.mark.parametrize(("reshard", "shard"), [(True, "params"), (False, "grads"), ("true", "params")])
def test_fsdp2_says_whether_to_reshard(tmp_path: Path, reshard: bool | str, shard: str) -> None:
    found = strategy(accelerate_file(tmp_path, fsdp(fsdp_version=2, fsdp_reshard_after_forward=reshard)))
    assert (found.engine, found.shard) == ("fsdp", shard)


def test_offload_is_all_or_nothing_for_fsdp_and_two_devices_for_deepspeed(tmp_path: Path) -> None:
    whole = strategy(accelerate_file(tmp_path, fsdp(fsdp_offload_params=True)))
    devices = {"offload_optimizer_device": "cpu", "offload_param_device": "cpu"}
    both = strategy(accelerate_file(tmp_path, plugin(3, **devices)))
    assert whole.offload_optimizer == both.offload_optimizer == "cpu"
    assert whole.offload_params == both.offload_params == "cpu"
    half = compose(accelerate_file(tmp_path, plugin(3, offload_optimizer_device="cpu")))
    assert half.strategy.offload_params == "none"
    with pytest.raises(Exception, match=r"strategy\.offload_optimizer: .*together, or neither"):
        export_strategy(half, "fsdp")


def test_nvme_is_deepspeed_s_alone_and_needs_a_path(tmp_path: Path) -> None:
    nvme = {"offload_param_device": "nvme", "offload_param_nvme_path": "/nvme"}
    found = compose(accelerate_file(tmp_path, plugin(3, **nvme)))
    assert (found.strategy.name, found.strategy.offload_nvme_path) == ("zero3_nvme", "/nvme")
    offload = json.loads(export_strategy(found, "deepspeed"))["zero_optimization"]["offload_param"]
    assert offload == {"device": "nvme", "pin_memory": True, "nvme_path": "/nvme"}
    with pytest.raises(Exception, match="FSDP offloads to the CPU only"):
        export_strategy(found, "fsdp")
    del nvme["offload_param_nvme_path"]
    assert "there is no offload_param_nvme_path" in problems(accelerate_file(tmp_path, plugin(3, **nvme)))[0]


def test_cpu_ram_efficient_loading_is_zero3_init(tmp_path: Path) -> None:
    loading = {"fsdp_cpu_ram_efficient_loading": True, "fsdp_sync_module_states": True}
    sharded = compose(accelerate_file(tmp_path, fsdp(**loading)))
    assert sharded.strategy.cpu_ram_efficient_loading
    assert strategy(accelerate_file(tmp_path, plugin(3, zero3_init_flag=True))).cpu_ram_efficient_loading
    assert "only stage 3" in problem(accelerate_file(tmp_path, plugin(2, zero3_init_flag=True)))
    as_zero = replace(sharded, strategy=replace(sharded.strategy, engine="deepspeed"))
    assert (
        yaml.safe_load(export_strategy(as_zero, "accelerate"))["deepspeed_config"]["zero3_init_flag"] is True
    )


def test_state_dict_type_beside_zero3_save_16bit_model(tmp_path: Path) -> None:
    """DeepSpeed always saves parts while training; the flag lets the final model be gathered."""
    parts = compose(accelerate_file(tmp_path, fsdp(fsdp_state_dict_type="SHARDED_STATE_DICT")))
    saved = strategy(accelerate_file(tmp_path, plugin(3, zero3_save_16bit_model=True)))
    assert parts.strategy.state_dict == saved.state_dict == "sharded"
    written = json.loads(export_strategy(parts, "deepspeed"))["zero_optimization"]
    assert written["stage3_gather_16bit_weights_on_model_save"] is True
    whole = compose(accelerate_file(tmp_path, fsdp(fsdp_state_dict_type="FULL_STATE_DICT")))
    assert whole.strategy.state_dict == "full"
    with pytest.raises(Exception, match=r"strategy\.state_dict: cannot be written as --format deepspeed"):
        export_strategy(whole, "deepspeed")
    assert "LOCAL_STATE_DICT" in problem(
        accelerate_file(tmp_path, fsdp(fsdp_state_dict_type="LOCAL_STATE_DICT"))
    )


def test_prefetch_is_an_option_of_fsdp_and_automatic_in_deepspeed(tmp_path: Path) -> None:
    found = compose(accelerate_file(tmp_path, fsdp(fsdp_forward_prefetch=True)))
    assert found.strategy.engine_options == {"forward_prefetch": True}
    with pytest.raises(Exception, match="DeepSpeed prefetches by itself"):
        export_strategy(found, "deepspeed")
    assert strategy(accelerate_file(tmp_path, fsdp(fsdp_backward_prefetch="BACKWARD_PRE"))).engine == "fsdp"
    assert "BACKWARD" not in problem(accelerate_file(tmp_path, fsdp(fsdp_backward_prefetch="NO_PREFETCH")))


@pytest.mark.parametrize(
    ("block", "wrap", "classes", "size"),
    [
        (
            {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_transformer_layer_cls_to_wrap": "A, B"},
            "layers",
            ["A", "B"],
            100_000_000,
        ),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": "2e6"}, "size", None, 2_000_000),
        ({"fsdp_auto_wrap_policy": "NO_WRAP"}, "none", None, 100_000_000),
    ],
)
def test_wrapping_is_by_layer_by_size_or_not_and_transparent_in_deepspeed(
    tmp_path: Path, block: dict[str, Any], wrap: str, classes: list[str] | None, size: int
) -> None:
    found = compose(accelerate_file(tmp_path, fsdp(**block)))
    assert (found.strategy.wrap, found.strategy.wrap_classes) == (wrap, classes)
    assert found.strategy.wrap_min_params == size
    assert json.loads(export_strategy(found, "deepspeed"))["zero_optimization"]["stage"] == 3


def test_parameters_are_always_the_original_ones(tmp_path: Path) -> None:
    assert strategy(accelerate_file(tmp_path, fsdp(fsdp_use_orig_params=True))).engine == "fsdp"
    assert "always uses the original" in problem(accelerate_file(tmp_path, fsdp(fsdp_use_orig_params=False)))


def test_module_states_are_synchronized_on_request_and_always_in_deepspeed(tmp_path: Path) -> None:
    found = compose(accelerate_file(tmp_path, fsdp(fsdp_sync_module_states=False)))
    assert not found.strategy.sync_module_states
    with pytest.raises(Exception, match=r"strategy\.sync_module_states: .*always sends"):
        export_strategy(found, "deepspeed")
    both = fsdp(fsdp_sync_module_states=False, fsdp_cpu_ram_efficient_loading=True)
    assert "only the main rank would have weights" in problems(accelerate_file(tmp_path, both))[0]


def test_accumulation_and_clipping_are_deepspeed_s_and_the_recipe_s(tmp_path: Path) -> None:
    block = {"gradient_accumulation_steps": 4, "gradient_clipping": 1.0}
    found = compose(accelerate_file(tmp_path, plugin(2, **block)))
    assert (found.batch.accumulation, found.optim.grad_clip) == (4, 1.0)
    loose = compose(accelerate_file(tmp_path, plugin(2, gradient_clipping=0)))
    assert loose.optim.grad_clip is None, "0 is DeepSpeed's word for none"
    auto = {"gradient_accumulation_steps": "auto", "gradient_clipping": "auto"}
    assert compose(accelerate_file(tmp_path, plugin(2, **auto))).optim.grad_clip == 1.0
