"""Every strategy over NCCL against one process, low precision, compiling, memory, waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.schema import Batch, Lora, Model, Precision, Recipe, Train
from galley.spec import Engaged, RunSpec
from galley.system.machine import probe
from tests.integration.train import tiny
from tests.integration.train.tiny_task import TinyModel

NO_DROPOUT = {"TINY_DROPOUT": "0"}
SHARDED = ("zero1", "zero2", "zero3", "fsdp", "fsdp_grad_op")
OFFLOADED = ("zero2_offload", "zero3_offload", "fsdp_offload")
LAYERS = replace(tiny.STRATEGIES["fsdp"], wrap="layers", wrap_classes=["Linear"])


def on_gpus(recipe: Recipe, num_gpus: int, accumulation: int = 1) -> RunSpec:
    spec = tiny.tiny_spec(recipe, num_gpus, accumulation)
    backend = "nccl" if num_gpus > 1 else "none"
    return replace(spec, layout=replace(spec.layout, device="cuda", backend=backend))


def engaged(folder: tiny.RunFolder) -> Engaged:
    result = folder.read_result()
    assert result is not None
    assert result.engaged is not None
    return result.engaged


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.train(tmp_path_factory.mktemp("single"), on_gpus(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)


def test_one_gpu_trains_like_one_cpu(single: Any, tmp_path: Path) -> None:
    on_cpu = tiny.train(tmp_path, tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)
    assert tiny.losses(single) == pytest.approx(tiny.losses(on_cpu), abs=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("strategy", ["ddp", *SHARDED, *OFFLOADED])
def test_every_strategy_gives_the_losses_of_one_gpu(
    single: Any, tmp_path: Path, num_gpus: int, strategy: str, accumulation: int
) -> None:
    spec = on_gpus(tiny.tiny_recipe(strategy), num_gpus, accumulation)
    folder = tiny.train(tmp_path, spec, **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
    assert "nccl" in engaged(folder).backend
    total = sum(p.numel() for p in TinyModel(0.1).parameters())
    if strategy != "ddp":
        share = 2 * total / num_gpus
        assert max(engaged(folder).elements_per_rank["optimizer"]) <= share * 1.05 + 64


def test_hybrid_sharding_needs_four(single: Any, tmp_path: Path, num_gpus: int) -> None:
    if num_gpus < 4:
        pytest.skip(f"two groups of two ranks need 4 GPUs, here are {num_gpus}")
    folder = tiny.train(tmp_path, on_gpus(tiny.tiny_recipe("fsdp_hybrid"), 4), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize(("compute", "tolerance"), [("bf16", 0.05), ("fp16", 0.15)])
def test_low_precision_is_near_fp32(
    single: Any, tmp_path: Path, num_gpus: int, strategy: str, compute: Any, tolerance: float
) -> None:
    recipe = tiny.tiny_recipe(strategy, precision=Precision(compute=compute))
    folder = tiny.train(tmp_path, on_gpus(recipe, num_gpus), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=tolerance)
    assert tiny.losses(folder) != tiny.losses(single)
    found = engaged(folder)
    assert (found.precision, found.reduce_dtype, found.master_dtype) == (compute, "fp32", "fp32")


def test_the_probe_knows_whether_the_gpus_have_bf16() -> None:
    probe.cache_clear()
    assert probe().gpus == torch.cuda.device_count()
    assert probe().bf16 == (torch.cuda.get_device_capability() >= (8, 0))


@pytest.mark.parametrize("strategy", ["zero3", "fsdp"])
def test_adapters_train_alike(tmp_path: Path, num_gpus: int, strategy: str) -> None:
    model = Model(lora=Lora(r=4, target_modules=["hidden"], modules_to_save=["head"]))
    train = Train(epochs=2.0, log_every_steps=1, gradient_checkpointing=True)
    recipes = [tiny.tiny_recipe(name, model=model, train=train) for name in ("single", strategy)]
    alone = tiny.train(tmp_path / "single", on_gpus(recipes[0], 1), **NO_DROPOUT)
    folder = tiny.train(tmp_path / strategy, on_gpus(recipes[1], num_gpus), **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)


@pytest.mark.parametrize(
    "strategy", [tiny.STRATEGIES["ddp"], tiny.STRATEGIES["zero2"], LAYERS], ids=lambda s: s.name
)
def test_compiled_training_has_the_same_losses(
    single: Any, tmp_path: Path, num_gpus: int, strategy: Any
) -> None:
    train = Train(epochs=2.0, log_every_steps=1, compile=True)
    recipe = replace(tiny.tiny_recipe(), strategy=strategy, train=train)
    spec = on_gpus(recipe, num_gpus)
    assert tiny.wait(tiny.start_ranks(tmp_path, spec, **NO_DROPOUT), timeout_s=600) == [0] * num_gpus
    folder = tiny.RunFolder(tmp_path)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    assert engaged(folder).compiled_graphs > 0


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_step_never_waits_for_the_device(
    tmp_path: Path, num_gpus: int, strategy: str, compute: Any
) -> None:
    """From the third step on torch raises at anything that would; rows are logged at the end only."""
    recipe = tiny.tiny_recipe(
        strategy, precision=Precision(compute=compute), train=Train(epochs=1.0, log_every_steps=100)
    )
    spec = on_gpus(recipe, 1 if strategy == "single" else num_gpus)
    tiny.train(tmp_path, spec, TINY_SYNC_DEBUG="3")


def test_memory_that_runs_out_halves_the_micro_batch(tmp_path: Path) -> None:
    """CUDA's own error, at an allocation that no GPU has room for."""
    spec = on_gpus(tiny.tiny_recipe("single"), 1)
    less = tiny.train(tmp_path / "less", on_gpus(tiny.tiny_recipe("single"), 1, accumulation=4))
    folder = tiny.train(tmp_path / "run", spec, TINY_MEMORY="2@0")
    result = folder.read_result()
    assert result is not None
    assert result.batch == Batch(8, 2, 4)
    assert tiny.losses(folder) == tiny.losses(less)


def test_recomputing_takes_less_memory() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024)
    model: Any = BertForSequenceClassification(config).cuda().train()
    ids = torch.ones(16, 128, dtype=torch.long, device="cuda")

    def peak() -> int:
        model.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(input_ids=ids).logits.sum().backward()
        return torch.cuda.max_memory_allocated() - before

    everything = peak()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert peak() < everything / 2
