"""A knob in the outside file and in the recipe or on the command line: equal, or an error with both."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.config.compose import compose_recipe, explain_sources
from galley.errors import ConfigError
from tests.support import user_recipe
from tests.unit.galley.interop.files import accelerate_file, deepspeed_file, fsdp, zero


def problem(*overrides: str, user_dir: Path | None = None) -> str:
    """The one problem of a command."""
    with pytest.raises(ConfigError) as caught:
        compose_recipe(overrides, [user_dir] if user_dir else [])
    (found,) = map(str, caught.value.problems)
    return found


def test_the_command_line_and_the_file(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2, gradient_clipping=0.5))
    found = problem(override, "optim.grad_clip=1.0")
    assert found.startswith("optim.grad_clip=1.0: optim.grad_clip is 1.0 here, but ")
    assert "ds.json:5 (gradient_clipping) sets optim.grad_clip to 0.5" in found
    assert compose_recipe([override, "optim.grad_clip=0.5"]).optim.grad_clip == 0.5


def test_the_recipe_and_the_file(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2, train_batch_size=64))
    found = problem(override)
    assert found.startswith("recipes/quickstart.yaml:11: batch.global_size is 32 here, but ")
    assert "ds.json:5 (train_batch_size) sets batch.global_size to 64" in found
    assert compose_recipe([override, "batch.global_size=64"]).batch.global_size == 64


def test_a_group_chosen_by_name_and_the_file(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2))
    found = problem(override, "strategy.shard=none", "strategy.engine=deepspeed")
    assert found.startswith("strategy.shard=none: strategy.shard is 'none' here")
    bf16 = deepspeed_file(tmp_path, zero(2, bf16={"enabled": True}))
    assert problem(bf16, "precision=fp16").startswith("precision=fp16 (conf/precision/fp16.yaml:2): ")
    assert compose_recipe([override, "strategy=zero2"]).strategy.name == "zero2"


def test_the_recipe_s_own_choice_of_a_strategy_gives_way_to_the_file(tmp_path: Path) -> None:
    """Every recipe chooses one; naming a file is choosing another."""
    recipe = compose_recipe([deepspeed_file(tmp_path, zero(2))])
    assert (recipe.strategy.name, recipe.strategy.engine) == ("zero2", "deepspeed")


def test_a_recipe_s_own_choice_of_a_precision_does_not(tmp_path: Path) -> None:
    text = "defaults:\n  - override /precision: bf16\nbatch:\n  global_size: 8\n"
    folder = user_recipe(tmp_path, text)
    override = deepspeed_file(tmp_path, zero(2, fp16={"enabled": True}))
    assert "conf/precision/bf16.yaml" in problem(override, "recipe=mine", user_dir=folder)


def test_warm_up_in_steps_and_as_a_ratio_are_one_knob(tmp_path: Path) -> None:
    scheduler = {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 10}}
    override = deepspeed_file(tmp_path, zero(2, scheduler=scheduler))
    found = problem(override)
    assert found.startswith("recipes/quickstart.yaml:15: schedule.warmup_ratio is 0.1 here, but ")
    assert "sets schedule.warmup_steps to 10" in found


def test_a_value_that_a_file_states_twice_conflicts_once(tmp_path: Path) -> None:
    """As in DeepSpeed's own examples: the rate of the optimizer, and the top of the warm-up."""
    blocks = {
        "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.001}},
    }
    assert "(optimizer.params.lr) sets optim.lr to 0.001" in problem(
        deepspeed_file(tmp_path, zero(2, **blocks))
    )


def test_engine_options_conflict_one_by_one(tmp_path: Path) -> None:
    config = {"zero_optimization": {"stage": 2, "overlap_comm": True}}
    override = deepspeed_file(tmp_path, config)
    key = "strategy.engine_options.zero_optimization"
    options = compose_recipe([override, f"{key}.reduce_bucket_size=1000"]).strategy.engine_options
    assert options == {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 1000}}
    assert problem(override, f"{key}.overlap_comm=false").startswith(f"{key}.overlap_comm=false: ")


def test_null_asks_for_nothing_where_null_is_the_default(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2, gradient_accumulation_steps=2, gradient_clipping=0.5))
    assert compose_recipe([override, "batch.accumulation=null"]).batch.accumulation == 2
    assert "optim.grad_clip is None here" in problem(override, "optim.grad_clip=null")


def test_a_file_named_by_a_recipe_is_read_too(tmp_path: Path) -> None:
    file = accelerate_file(tmp_path, fsdp(fsdp_sharding_strategy=2)).partition("=")[2]
    text = f"batch:\n  global_size: 8\nstrategy:\n  accelerate_config: {file}\n"
    recipe = compose_recipe(["recipe=mine"], [user_recipe(tmp_path, text)])
    assert recipe.strategy.name == "fsdp_grad_op"
    text = "batch:\n  global_size: 8\nstrategy:\n  accelerate_config: gone.yaml\n"
    (tmp_path / "recipes" / "mine.yaml").write_text(text)
    found = problem("recipe=mine", user_dir=tmp_path)
    assert found.startswith(f"{tmp_path}/recipes/mine.yaml:4: 'gone.yaml' does not exist")


def test_a_wrong_value_is_located_in_the_file(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2, gradient_accumulation_steps=0))
    found = problem(override)
    assert "ds.json:5 (gradient_accumulation_steps): batch.accumulation: 0 is not a valid value" in found


def test_explain_names_the_file_the_line_and_its_own_key(tmp_path: Path) -> None:
    override = deepspeed_file(tmp_path, zero(2, gradient_clipping=0.5))
    value, sources = explain_sources([override], "optim.grad_clip")
    assert value == 0.5
    assert sources[-1].where.endswith("ds.json:5 (gradient_clipping)")
