"""Training on real ranks: determinism, parity of strategies, evaluation, stopping, engagement."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galley.schema import Checkpoint, Dtype, Eval, Optim, Precision, Train
from galley.system.half_precision import has_instructions, this_cpu
from tests.integration.train import tiny
from tests.integration.train.tiny_task import TinyDataset, TinyModel, TinyTask
from trainer.data.batches import BatchPlan

NO_DROPOUT = {"TINY_DROPOUT": "0"}
TWENTY = Train(max_steps=20, log_every_steps=1)


@pytest.fixture(scope="module")
def single(finished: Any) -> Any:
    """The reference: one process, no dropout, 18 steps with an incomplete last batch an epoch."""
    return finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **NO_DROPOUT)


@pytest.fixture(scope="module")
def alone(finished: Any) -> Any:
    return finished(tiny.tiny_spec(tiny.tiny_recipe("single", train=TWENTY), 1), **NO_DROPOUT)


# strategy -> (ranks, accumulation)
MATRIX = {
    "single": [(1, 4)],
    "ddp": [(2, 2), (3, 1), (4, 1)],
    "zero1": [(2, 2), (4, 1)],
    "zero2": [(2, 2), (3, 1), (4, 1)],
    "zero3": [(2, 2), (3, 1), (4, 1)],
    "zero2_offload": [(2, 2), (4, 1)],
    "zero3_offload": [(2, 1), (4, 1)],
    "fsdp": [(2, 1), (3, 2), (4, 1)],
    "fsdp_grad_op": [(2, 2), (4, 1)],
    "fsdp_hybrid": [(4, 1)],
    "fsdp_offload": [(2, 1), (4, 1)],
}


@pytest.mark.parametrize(
    ("strategy", "world_size", "accumulation"),
    [(strategy, *place) for strategy, places in MATRIX.items() for place in places],
)
def test_every_strategy_gives_the_losses_and_weights_of_one_process(
    alone: Any, tmp_path: Path, strategy: str, world_size: int, accumulation: int
) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe(strategy, train=TWENTY), world_size, accumulation)
    folder = tiny.train(tmp_path, spec, **NO_DROPOUT)
    assert len(tiny.losses(folder)) == 20
    assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(alone)) < 1e-4
    assert folder.read_result().metrics == pytest.approx(alone.read_result().metrics, abs=1e-5)
    held = folder.read_result().engaged.elements_per_rank
    whole = alone.read_result().engaged.elements_per_rank
    copies = 2 if strategy == "fsdp_hybrid" else 1
    for kind in divided(strategy):
        assert sum(held[kind]) == pytest.approx(copies * whole[kind][0], rel=0.02)
        assert max(held[kind]) < whole[kind][0]


def divided(strategy: str) -> tuple[str, ...]:
    """What the ranks share instead of having it each."""
    if strategy.startswith(("fsdp", "zero3")):
        return ("params", "grads", "optimizer")
    return {"zero1": ("optimizer",), "zero2": ("grads", "optimizer")}.get(strategy[:5], ())


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp"])
def test_all_ranks_begin_with_the_main_rank_s_weights(tmp_path: Path, single: Any, strategy: str) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe(strategy), 2)
    folder = tiny.train(tmp_path, spec, TINY_OWN_WEIGHTS="1", **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)


def test_fsdp_layers_gather_the_next_one_early(tmp_path: Path, single: Any) -> None:
    options = {"forward_prefetch": True}
    layers = replace(tiny.STRATEGIES["fsdp"], wrap="layers", wrap_classes=["Linear"], engine_options=options)
    spec = tiny.tiny_spec(replace(tiny.tiny_recipe("fsdp"), strategy=layers), 2)
    folder = tiny.train(tmp_path / "layers", spec, **NO_DROPOUT)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
    by_size = replace(tiny.STRATEGIES["fsdp"], engine_options=options)
    spec = tiny.tiny_spec(replace(tiny.tiny_recipe("fsdp"), strategy=by_size), 2)
    assert tiny.run_ranks(tmp_path / "size", spec) == [2, 2]


def test_the_reference_is_what_plain_torch_computes(single: Any) -> None:
    """The loop against ten lines of torch on the same batches."""
    recipe = tiny.tiny_recipe("single")
    os.environ["TINY_DROPOUT"] = "0"
    task = TinyTask(recipe)
    model, data = task.model(), TinyDataset(70, seed=1)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    losses = []
    plan = BatchPlan(data.lengths, recipe.seed, 8, True)
    for batch in [samples for epoch in (0, 1) for samples in plan.epoch(epoch)]:
        step = len(losses)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step / 2 if step < 2 else (18 - step) / 16)
        inputs = task.collate(data.rows(batch.tolist()))
        loss = torch.nn.functional.cross_entropy(model(inputs["tokens"]), inputs["label"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert tiny.losses(single) == pytest.approx(losses, abs=1e-6)
    assert tiny.largest_difference(tiny.weights(single), dict(model.state_dict())) < 1e-5


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_the_same_seed_twice_is_bit_identical_with_dropout(
    tmp_path: Path, finished: Any, strategy: str
) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe(strategy), 2)
    first, second = finished(spec), tiny.train(tmp_path / "b", spec)
    assert tiny.losses(first) == tiny.losses(second)
    assert tiny.largest_difference(tiny.weights(first), tiny.weights(second)) == 0.0
    other = tiny.train(tmp_path / "c", tiny.tiny_spec(tiny.tiny_recipe(strategy, seed=8), 2))
    assert tiny.losses(first) != tiny.losses(other)


def test_dropout_differs_between_ranks_and_steps(finished: Any) -> None:
    with_dropout = finished(tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2))
    without = finished(tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2), **NO_DROPOUT)
    assert tiny.losses(with_dropout) != tiny.losses(without)


def test_evaluating_more_often_does_not_change_training(tmp_path: Path, finished: Any) -> None:
    recipe = tiny.tiny_recipe("ddp")
    often = replace(recipe, eval=replace(recipe.eval, every_steps=3))
    seldom = finished(tiny.tiny_spec(recipe, 2))
    frequent = tiny.train(tmp_path / "b", tiny.tiny_spec(often, 2))
    assert tiny.losses(seldom) == tiny.losses(frequent)
    steps = [row["step"] for row in frequent.read_metrics() if "eval/loss" in row]
    assert steps == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize(("compute", "tolerance"), [("bf16", 0.05), ("fp16", 0.15)])
def test_low_precision_agrees_between_strategies(
    tmp_path: Path, single: Any, compute: Dtype, tolerance: float
) -> None:
    """The first fp16 steps find their loss scale and change nothing, so that it lags behind."""
    found = {}
    for strategy in ("ddp", "zero2", "zero3", "fsdp"):
        recipe = tiny.tiny_recipe(strategy, precision=Precision(compute=compute))
        found[strategy] = tiny.train(tmp_path / strategy, tiny.tiny_spec(recipe, 2), **NO_DROPOUT)
        assert tiny.losses(found[strategy]) == pytest.approx(tiny.losses(found["ddp"]), abs=2e-3)
        assert {t.dtype for t in tiny.weights(found[strategy]).values()} == {torch.float32}
        assert found[strategy].read_result().engaged.precision == compute
    if not has_instructions(compute, this_cpu().instructions):
        told = f"{compute} takes .* times as long as fp32 on .*: precision=fp32 is faster there"
        assert re.search(told, found["ddp"].rank_log(1, 0).read_text())
    assert tiny.losses(found["ddp"]) == pytest.approx(tiny.losses(single), abs=tolerance)
    assert tiny.losses(found["ddp"]) != tiny.losses(single)


def test_gradients_may_be_reduced_in_bf16(tmp_path: Path, single: Any) -> None:
    for strategy in ("ddp", "zero2"):
        recipe = tiny.tiny_recipe(strategy, precision=Precision(reduce="bf16"))
        folder = tiny.train(tmp_path / strategy, tiny.tiny_spec(recipe, 2), **NO_DROPOUT)
        difference = np.abs(np.subtract(tiny.losses(folder), tiny.losses(single))).max()
        assert 1e-5 < difference < 0.05


def test_every_sample_counts_once_an_epoch_on_three_ranks(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    tiny.train(tmp_path / "run", tiny.tiny_spec(tiny.tiny_recipe("ddp"), 3), TINY_TRACE=str(trace))
    seen = [
        json.loads(line) for rank in range(3) for line in Path(f"{trace}.{rank}").read_text().splitlines()
    ]
    counts = Counter(index for samples in seen for index in samples)
    assert counts == dict.fromkeys(range(70), 2)


def test_fewer_samples_than_ranks_in_the_last_batch(tmp_path: Path, single: Any) -> None:
    one = {"TINY_SAMPLES": "17", **NO_DROPOUT}
    alone = tiny.train(tmp_path / "a", tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **one)
    for strategy in ("ddp", "zero2"):
        folder = tiny.train(tmp_path / strategy, tiny.tiny_spec(tiny.tiny_recipe(strategy), 2), **one)
        assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)


def test_the_result_tells_what_engaged(finished: Any) -> None:
    total = sum(p.numel() for p in TinyModel(0.1).parameters())
    for strategy, engine, shares in (("ddp", "DistributedDataParallel", 1), ("zero2", "DeepSpeedEngine", 2)):
        folder = finished(tiny.tiny_spec(tiny.tiny_recipe(strategy), 2))
        engaged = folder.read_result().engaged
        assert (engaged.engine, engaged.backend) == (engine, "gloo")
        assert engaged.elements_per_rank["params"] == [total, total]
        for held in engaged.elements_per_rank["optimizer"]:
            assert held == pytest.approx(2 * total / shares, rel=0.02)
        for held in engaged.elements_per_rank["grads"]:
            assert held == pytest.approx(total / shares, rel=0.02)


def test_the_result_is_complete(single: Any) -> None:
    result = single.read_result()
    assert (result.state, result.exit_code, result.steps, result.epochs) == ("succeeded", 0, 18, 2.0)
    assert result.metrics.keys() == {"eval/accuracy", "eval/loss", "train/loss"}
    assert result.samples_per_s > 0
    assert result.tokens_per_s > result.samples_per_s
    assert 0.05 < result.peak_memory_gib < 8
    assert 0 < result.train_s < result.wall_s
    assert single.read_progress().phase == "done"
    rows = [row for row in single.read_metrics() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[0].keys() == {
        "step",
        "epoch",
        "time_s",
        "loss",
        "lr",
        "grad_norm",
        "samples_per_s",
        "tokens_per_s",
    }


def test_max_steps_and_fractions_of_epochs_end_the_run(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("single", train=Train(epochs=0.5, log_every_steps=3))
    folder = tiny.train(tmp_path, tiny.tiny_spec(recipe, 1))
    assert folder.read_result().steps == 5
    assert [row["step"] for row in folder.read_metrics() if "loss" in row] == [3, 5]


def test_early_stopping_ends_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    stopping = Eval(every_steps=2, metric="eval/accuracy", patience=2)
    recipe = tiny.tiny_recipe("ddp", eval=stopping, optim=Optim(lr=1e-12))
    folder = tiny.train(tmp_path, tiny.tiny_spec(recipe, 2))
    result = folder.read_result()
    assert (result.state, result.steps) == ("succeeded", 6)
    assert "stopped early at step 6 of 18" in result.message


def test_without_clipping_the_norm_is_still_reported(tmp_path: Path) -> None:
    optim = Optim(lr=1e-2, grad_clip=None)
    norms = []
    for strategy in ("single", "zero2"):
        spec = tiny.tiny_spec(tiny.tiny_recipe(strategy, optim=optim), 1 if strategy == "single" else 2)
        folder = tiny.train(tmp_path / strategy, spec, **NO_DROPOUT)
        norms.append([row["grad_norm"] for row in folder.read_metrics() if "grad_norm" in row])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_evaluation_is_the_same_on_any_number_of_ranks(tmp_path: Path, batch_size: int) -> None:
    """The same weights, by resuming after the last step; with 64 there are more ranks than batches."""
    recipe = tiny.tiny_recipe(
        "ddp", checkpoint=Checkpoint(every_steps=18), eval=Eval(metric="eval/accuracy", batch_size=batch_size)
    )
    trained = tiny.train(tmp_path / "1", tiny.tiny_spec(recipe, 1))
    metrics = []
    for world_size in (1, 2, 3):
        shutil.copytree(trained.root / "checkpoints", tmp_path / f"on {world_size}" / "checkpoints")
        folder = tiny.train(tmp_path / f"on {world_size}", tiny.tiny_spec(recipe, world_size), attempt=2)
        metrics.append([row for row in folder.read_metrics() if "eval/loss" in row][-1])
    assert len({(row["eval/accuracy"], row["eval/loss"]) for row in metrics}) == 1
    assert folder.read_result().resumed_from == "step-000018"
