"""ZeRO's configuration, its compiled operators, and what each stage holds."""

from __future__ import annotations

from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.schema import Checkpoint, Precision
from tests.integration.train import tiny
from trainer.strategies.base import Setup
from trainer.strategies.zero_config import deepspeed_config, uses_cpu_adam
from trainer.strategies.zero_ops import ops_cache

NO_DROPOUT = {"TINY_DROPOUT": "0"}
KILLED = -9


def setup(strategy: str, **changes: Any) -> Setup:
    recipe = tiny.tiny_recipe(strategy)
    recipe = replace(recipe, strategy=replace(recipe.strategy, **changes))
    return Setup(recipe, tiny.tiny_spec(recipe, 2).layout, tiny.lone_rank())


def test_options_are_merged_into_what_is_derived() -> None:
    options = {
        "zero_optimization": {
            "overlap_comm": True,
            "stage3_param_persistence_threshold": 64,
            "offload_optimizer": {"ratio": 0.5, "pin_memory": False},
        },
        "steps_per_print": 10,
    }
    config = deepspeed_config(setup("zero3_offload", engine_options=options), 1000)
    assert config["steps_per_print"] == 10
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["zero_optimization"] == {
        "stage": 3,
        "overlap_comm": True,
        "reduce_bucket_size": 1000,
        "stage3_param_persistence_threshold": 64,
        "offload_optimizer": {"device": "cpu", "pin_memory": False, "ratio": 0.5},
        "offload_param": {"device": "cpu", "pin_memory": False},
    }


@pytest.mark.parametrize(
    ("strategy", "options", "name"),
    [
        ("zero2", {"zero_optimization": {"stage": 3}}, "zero_optimization.stage"),
        ("zero2", {"gradient_clipping": 2.0}, "gradient_clipping"),
        (
            "zero2_offload",
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "zero_optimization.offload_optimizer.device",
        ),
        ("zero2", {"optimizer": {"params": {"torch_adam": False}}}, "optimizer.params.torch_adam"),
        ("zero2", {"optimizer": {"legacy_fusion": True}}, "optimizer.legacy_fusion"),
    ],
)
def test_an_option_against_the_recipe_is_refused_by_name(
    strategy: str, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"strategy.engine_options.{name}: "):
        deepspeed_config(setup(strategy, engine_options=options), 1000)


def test_parameters_kept_whole_on_request_are_counted(tmp_path: Path) -> None:
    """The embedding (960) and the hidden layer's weight (512) are above the threshold."""
    recipe = tiny.tiny_recipe("zero3")
    options = {"zero_optimization": {"stage3_param_persistence_threshold": 100}}
    recipe = replace(recipe, strategy=replace(recipe.strategy, engine_options=options))
    folder = tiny.train(tmp_path, tiny.tiny_spec(recipe, 2))
    total = sum(p.numel() for p in tiny.TinyModel(0.1).parameters())
    small = total - 60 * 16 - 16 * 32
    for held in folder.read_result().engaged.elements_per_rank["params"]:
        assert held == pytest.approx(total / 2 + small, abs=8)


@pytest.mark.parametrize("strategy", ["zero3", "zero2_offload", "zero3_offload"])
def test_what_a_rank_holds_and_how_it_resumes(tmp_path: Path, strategy: str) -> None:
    """Killed at half, under fp16 with its skipped steps: the same weights, bit for bit."""
    recipe = tiny.tiny_recipe(
        strategy, checkpoint=Checkpoint(every_steps=4), precision=Precision(compute="fp16")
    )
    spec = tiny.tiny_spec(recipe, 2)
    whole = tiny.train(tmp_path / "whole", spec)
    assert tiny.run_ranks(tmp_path / "cut", spec, TINY_KILL="11")[-1] == KILLED
    resumed = tiny.train(tmp_path / "cut", spec, attempt=2)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0.0
    assert tiny.losses(whole) == tiny.losses(resumed)
    engaged = whole.read_result().engaged
    total = sum(p.numel() for p in tiny.TinyModel(0.1).parameters())
    shares = {"params": 2 if strategy.startswith("zero3") else 1, "grads": 2, "optimizer": 2}
    assert engaged.engine == "DeepSpeedEngine"
    for kind, held in engaged.elements_per_rank.items():
        expected = (2 if kind == "optimizer" else 1) * total / shares[kind]
        assert held == pytest.approx([expected, expected], rel=0.02)


def test_an_offloaded_optimizer_may_be_torch_s(tmp_path: Path) -> None:
    options = {"optimizer": {"params": {"torch_adam": True}}}
    recipe = tiny.tiny_recipe("zero3_offload")
    recipe = replace(recipe, strategy=replace(recipe.strategy, engine_options=options))
    assert not uses_cpu_adam(recipe.strategy)
    alone = tiny.train(tmp_path / "a", tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)
    folder = tiny.train(tmp_path / "b", tiny.tiny_spec(recipe, 2), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)


@pytest.mark.timeout(900)
def test_the_lock_of_a_killed_compile_hangs_nobody(tmp_path: Path) -> None:
    tiny.build_cpu_adam()
    stale = ops_cache(setup("zero2_offload")) / "cpu_adam" / "lock"
    stale.touch()
    tiny.train(tmp_path, tiny.tiny_spec(tiny.tiny_recipe("zero2_offload"), 2))
    assert not stale.exists()


def test_state_on_an_nvme_drive_is_refused(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("zero3")
    nvme = replace(recipe.strategy, offload_optimizer="nvme", offload_nvme_path=str(tmp_path))
    spec = tiny.tiny_spec(replace(recipe, strategy=nvme), 1)
    assert tiny.run_ranks(tmp_path, spec) == [2]
    (error,) = tiny.RunFolder(tmp_path).read_rank_errors(1)
    assert error.message.startswith("strategy.offload_optimizer: ")
    assert ("libaio-dev" in error.message) == (find_library("aio") is None)
