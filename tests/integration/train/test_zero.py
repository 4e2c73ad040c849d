"""ZeRO's configuration, its compiled operators, and what each stage holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.schema import Checkpoint, Optim, Precision
from tests.integration.train import tiny
from tests.integration.train.tiny_task import TinyModel
from trainer.engines.base import Setup
from trainer.engines.deepspeed.config import deepspeed_config, uses_cpu_adam
from trainer.engines.deepspeed.operators import ops_cache

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
    config = deepspeed_config(setup("zero3_offload", engine_options=options), [1000])
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
    assert deepspeed_config(setup("zero2"), [1000])["zero_optimization"]["reduce_scatter"] is False
    wanted = {"zero_optimization": {"reduce_scatter": True}}
    config = deepspeed_config(setup("zero2", engine_options=wanted), [1000])
    assert config["zero_optimization"]["reduce_scatter"] is True


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
        deepspeed_config(setup(strategy, engine_options=options), [1000])


def test_parameters_kept_whole_on_request_are_counted(tmp_path: Path) -> None:
    """The embedding (960) and the hidden layer's weight (512) are above the threshold."""
    recipe = tiny.tiny_recipe("zero3")
    options = {"zero_optimization": {"stage3_param_persistence_threshold": 100}}
    recipe = replace(recipe, strategy=replace(recipe.strategy, engine_options=options))
    folder = tiny.train(tmp_path, tiny.tiny_spec(recipe, 2))
    total = sum(p.numel() for p in TinyModel(0.1).parameters())
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
    total = sum(p.numel() for p in TinyModel(0.1).parameters())
    shares = {"params": 2 if strategy.startswith("zero3") else 1, "grads": 2, "optimizer": 2}
    assert engaged.engine == "DeepSpeedEngine"
    for kind, held in engaged.elements_per_rank.items():
        expected = (2 if kind == "optimizer" else 1) * total / shares[kind]
        assert held == pytest.approx([expected, expected], rel=0.02)


def test_an_offloaded_optimizer_may_be_torch_s(tmp_path: Path, finished: Any) -> None:
    options = {"optimizer": {"params": {"torch_adam": True}}}
    recipe = tiny.tiny_recipe("zero3_offload")
    recipe = replace(recipe, strategy=replace(recipe.strategy, engine_options=options))
    assert not uses_cpu_adam(recipe.strategy)
    alone = finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)
    folder = tiny.train(tmp_path / "b", tiny.tiny_spec(recipe, 2), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)


@pytest.mark.timeout(900)
def test_the_lock_of_a_killed_compile_hangs_nobody(tmp_path: Path) -> None:
    tiny.build_cpu_adam()
    stale = ops_cache(setup("zero2_offload")) / "cpu_adam" / "lock"
    stale.touch()
    tiny.train(tmp_path, tiny.tiny_spec(tiny.tiny_recipe("zero2_offload"), 2))
    assert not stale.exists()


WIDE = {"TINY_INNER": "32768", **NO_DROPOUT}
"""Wide enough for a drive: at two ranks the part of the hidden layer is 1 MiB."""


def on_drive(folder: Path, **changes: Any) -> Any:
    """Its optimizer state in two sub-groups, one of them large enough for the drive."""
    folder.mkdir(exist_ok=True)
    recipe = tiny.tiny_recipe("zero3_nvme", optim=Optim(lr=1e-4), **changes)
    strategy = replace(recipe.strategy, offload_nvme_path=str(folder))
    return tiny.tiny_spec(replace(recipe, strategy=strategy), 2)


@pytest.mark.timeout(900)
def test_state_on_a_drive_trains_alike_and_moves_to_and_from_memory(tmp_path: Path) -> None:
    """From the drive to one process, and from there to the drive again; each ends as if never stopped."""
    drive, optim = tmp_path / "drive", Optim(lr=1e-4)
    left, foreign = drive / "galley-nvme-0123abcd", drive / "galley-nvme-mine"
    left.mkdir(parents=True)
    foreign.mkdir()
    (left / "lock").touch()
    alone = tiny.tiny_recipe("single", optim=optim, checkpoint=Checkpoint(every_steps=12))
    single = tiny.train(tmp_path / "single", tiny.tiny_spec(alone, 1), **WIDE)
    folder = tiny.train(tmp_path / "nvme", on_drive(drive, checkpoint=Checkpoint(every_steps=8)), **WIDE)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    engaged = folder.read_result().engaged
    total = sum(tensor.numel() for tensor in tiny.weights(folder).values())
    shares = {"params": total / 2, "grads": total / 2, "optimizer": total}
    for kind, held in engaged.elements_per_rank.items():
        assert held == pytest.approx([shares[kind]] * 2, rel=0.02)
    assert list(drive.glob("galley-*")) == [foreign]
    source = str(tmp_path / "nvme/checkpoints/step-000008")
    back = tiny.tiny_recipe("single", optim=optim, checkpoint=Checkpoint(resume_from=source))
    resumed = tiny.train(tmp_path / "back", tiny.tiny_spec(back, 1), **WIDE)
    assert tiny.losses(resumed) == pytest.approx(tiny.losses(single)[8:], abs=1e-5)
    source = str(tmp_path / "single/checkpoints/step-000012")
    again = tiny.train(tmp_path / "again", on_drive(drive, checkpoint=Checkpoint(resume_from=source)), **WIDE)
    assert tiny.losses(again) == pytest.approx(tiny.losses(single)[12:], abs=1e-5)
    assert tiny.largest_difference(tiny.weights(again), tiny.weights(single)) < 1e-4


def test_a_drive_that_nothing_reaches_fails_the_run(tmp_path: Path) -> None:
    """The parts of the narrow model are smaller than what DeepSpeed writes to a drive."""
    assert tiny.run_ranks(tmp_path / "run", on_drive(tmp_path / "drive"), **NO_DROPOUT) == [4, 4]
    message = tiny.RunFolder(tmp_path / "run").read_rank_errors(1)[0].message
    assert "offload_optimizer=nvme, but nothing is on the drive" in message


def test_a_drive_that_is_not_there_is_refused(tmp_path: Path) -> None:
    spec = on_drive(tmp_path / "drive")
    (tmp_path / "drive").rmdir()
    assert tiny.run_ranks(tmp_path / "run", spec) == [2, 2]
    message = tiny.RunFolder(tmp_path / "run").read_rank_errors(1)[0].message
    assert f"strategy.offload_nvme_path: '{tmp_path / 'drive'}' is not a folder here" in message
