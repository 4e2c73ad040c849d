"""LoRA and learning rates by group under every strategy: the losses of one process, portable adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from cli.main import main
from galley.schema import Checkpoint, Lora, Model, Optim, ParamGroup, Recipe, Train
from tests.integration.train import tiny
from tests.integration.train.tiny_task import NUM_LABELS, WIDTH, TinyModel
from trainer.checkpoints.manifest import list_checkpoints

NO_DROPOUT = {"TINY_DROPOUT": "0"}
LORA = Lora(r=3, alpha=6, target_modules=["hidden"], modules_to_save=["head"])
ADAPTERS = 3 * WIDTH + 2 * WIDTH * 3
TRAINED = ADAPTERS + 2 * WIDTH * NUM_LABELS + NUM_LABELS
# PEFT keeps the frozen original of a module that is trained in full.
ALL = sum(p.numel() for p in TinyModel(0.1).parameters()) + TRAINED


# LoRA+ (arXiv:2402.12354): B learns faster than A.
OPTIM = Optim(lr=1e-2, groups=[ParamGroup("lora_B", lr=4e-2), ParamGroup("head", weight_decay=0.3)])


def recipe(strategy: str, lora: Lora = LORA, **changes: Any) -> Recipe:
    return tiny.tiny_recipe(strategy, model=Model(lora=lora), **{"optim": OPTIM, **changes})


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = tiny.tiny_spec(recipe("single"), 1)
    return tiny.train(tmp_path_factory.mktemp("single"), spec, **NO_DROPOUT)


def test_only_the_adapters_and_the_head_are_trained(single: Any) -> None:
    held = single.read_result().engaged.elements_per_rank
    assert held == {"params": [ALL], "grads": [TRAINED], "optimizer": [2 * TRAINED]}
    adapters = tiny.weights(single)
    assert sum(t.numel() for t in adapters.values()) == TRAINED + 1  # and the buffer
    assert adapters["base_model.model.hidden.lora_B.default.weight"].abs().min() > 0  # they begin at 0


@pytest.mark.parametrize(
    ("strategy", "world_size", "accumulation"),
    [
        ("ddp", 2, 1),
        ("zero1", 2, 1),
        ("zero2", 3, 1),
        ("zero3", 2, 2),
        ("zero2_offload", 2, 1),
        ("zero3_offload", 2, 1),
        ("fsdp", 3, 1),
        ("fsdp_grad_op", 2, 2),
        ("fsdp_hybrid", 4, 1),
        ("fsdp_offload", 2, 1),
    ],
)
def test_every_strategy_trains_the_same_adapters(
    single: Any, tmp_path: Path, strategy: str, world_size: int, accumulation: int
) -> None:
    """Also where activations are recomputed."""
    train = Train(epochs=2.0, log_every_steps=1, gradient_checkpointing=True)
    spec = tiny.tiny_spec(recipe(strategy, train=train), world_size, accumulation)
    folder = tiny.train(tmp_path, spec, **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    held = folder.read_result().engaged.elements_per_rank
    if strategy != "ddp":
        assert max(held["optimizer"]) < 2 * TRAINED


@pytest.mark.parametrize(("before", "after"), [("zero3", "fsdp"), ("fsdp", "zero2")])
def test_checkpoints_hold_what_is_trained_and_move_between_strategies(
    single: Any, tmp_path: Path, before: str, after: str
) -> None:
    spec = tiny.tiny_spec(recipe(before, checkpoint=Checkpoint(every_steps=8)), 2)
    assert tiny.run_ranks(tmp_path / "a", spec, TINY_KILL="10", **NO_DROPOUT)[-1] == -9
    (saved,) = list_checkpoints(tmp_path / "a" / "checkpoints")
    names = [name for file in saved.glob("*.safetensors") for name in keys(file)]
    assert {name.partition("/")[0] for name in names} == {"param", "exp_avg", "exp_avg_sq", "buffer"}
    assert sum("lora_" in name for name in names) == 6
    assert not [name for name in names if "embedding" in name]
    assert main(["checkpoint", "convert", str(saved), str(tmp_path / "adapters")]) == 0
    assert keys(tmp_path / "adapters" / "adapter_model.safetensors") == [
        "base_model.model.head.bias",
        "base_model.model.head.weight",
        "base_model.model.hidden.lora_A.weight",
        "base_model.model.hidden.lora_B.weight",
    ]
    again = recipe(after, checkpoint=Checkpoint(resume_from=str(tmp_path / "a")))
    folder = tiny.train(tmp_path / "b", tiny.tiny_spec(again, 1), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single)[8:], abs=1e-5)
    # The base weights come from the model's source; another model of the same shape is another model.
    other = tiny.tiny_spec(replace(again, strategy=tiny.STRATEGIES["single"]), 1)
    assert tiny.run_ranks(tmp_path / "c", other, TINY_BASE_SEED="1", **NO_DROPOUT) == [4]
    (error,) = tiny.RunFolder(tmp_path / "c").read_rank_errors(1)
    assert "manifest.json: belongs to another model" in error.message


def keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def test_a_layer_that_the_model_has_not_is_refused_before_training(tmp_path: Path) -> None:
    wrong = replace(LORA, target_modules=["hiden", "embedding"], modules_to_save=[])
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(recipe("single", wrong), 1)) == [2]
    (error,) = tiny.RunFolder(tmp_path).read_rank_errors(1)
    assert error.message == (
        "model.lora.target_modules: the model has no layer 'hiden'\n"
        "    did you mean 'hidden'? valid: embedding, hidden, head"
    )


def test_groups_decide_what_is_learned(single: Any, tmp_path: Path) -> None:
    plain = tiny.train(tmp_path, tiny.tiny_spec(recipe("single", optim=Optim(lr=1e-2)), 1), **NO_DROPOUT)
    rates = [[row["lr"] for row in run.read_metrics() if "lr" in row] for run in (plain, single)]
    assert rates[0] == rates[1]
    name = "base_model.model.hidden.lora_B.default.weight"
    faster, slower = tiny.weights(single)[name].norm(), tiny.weights(plain)[name].norm()
    assert faster > 2 * slower


def test_a_group_without_parameters_ends_the_run_at_its_start(tmp_path: Path) -> None:
    groups = [ParamGroup(name, lr=1e-3) for name in ("hidden", "lora_C", "lora_A")]
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(recipe("single", optim=Optim(groups=groups)), 1)) == [2]
    (error,) = tiny.RunFolder(tmp_path).read_rank_errors(1)
    assert error.message == (
        "optim.groups[1].match=lora_C: matches no trained parameter\n"
        "    did you mean 'lora_B' or 'lora_A'?\n"
        "optim.groups[2].match=lora_A: matches nothing that the groups before it left\n"
        "    put it before the group that has its parameters"
    )


def test_merged_weights_are_those_of_the_model_with_adapters(single: Any, tmp_path: Path) -> None:
    merging = recipe("single", replace(LORA, merge=True))
    merged = tiny.weights(tiny.train(tmp_path, tiny.tiny_spec(merging, 1), **NO_DROPOUT))
    adapters = {name.removeprefix("base_model.model."): t for name, t in tiny.weights(single).items()}
    assert merged.keys() == dict(TinyModel(0.0).state_dict()).keys()
    torch.manual_seed(7)
    base = TinyModel(0.0).state_dict()
    update = adapters["hidden.lora_B.default.weight"] @ adapters["hidden.lora_A.default.weight"]
    expected = base["hidden.weight"] + 6 / 3 * update
    torch.testing.assert_close(merged["hidden.weight"], expected)
    assert torch.equal(merged["embedding.weight"], base["embedding.weight"])
    assert torch.equal(merged["head.weight"], adapters["head.modules_to_save.default.weight"])
