"""Tensor and pipeline parallel on real ranks: the training of one process, to 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint, Data, Eval, Model, Recipe, Strategy, Task, Train
from galley.spec import RunSpec
from tests.integration.train import tiny

OWN = {"OWN_TASK": "1"}
TP = Strategy("tp", tensor_parallel=2)
PP = Strategy("pp", pipeline_parallel=2)
THREE_D = Strategy("3d", tensor_parallel=2, pipeline_parallel=2, shard="optimizer")
MODELS = {
    "llama": Model(
        architecture="llama",
        config={
            "num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
        },
        tokenizer="characters",
        dropout=0.0,
    ),
    "gpt2": Model(
        architecture="gpt2",
        config={"n_layer": 4, "n_head": 2, "n_embd": 8, "n_positions": 32},
        tokenizer="characters",
        dropout=0.0,
    ),
}  # fmt: skip


def recipe(cache: Path, strategy: Strategy, model: str = "llama", **changes: Any) -> Recipe:
    """8 samples a step, the last step of an epoch fewer."""
    made = replace(
        tiny.tiny_recipe("single"),
        strategy=strategy,
        model=MODELS[model],
        data=Data(name="embedded:pydoc_text", max_length=32, max_samples=1, cache_dir=str(cache)),
        task=Task("causal_lm"),
        train=Train(max_steps=10, log_every_steps=1),
        eval=Eval(metric="eval/loss"),
        checkpoint=Checkpoint(every_steps=5),
    )
    return replace(made, **changes)


def spec(made: Recipe, world_size: int, chunks: int = 1) -> RunSpec:
    sealed = tiny.tiny_spec(made, world_size)
    parts = made.strategy.model_parallel
    micro = 8 * parts // (world_size * chunks)
    layout = replace(sealed.layout, model_parallel=parts, micro_size=micro, accumulation=chunks)
    return replace(sealed, layout=layout)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, tiny.RunFolder]:
    """The same training in one process."""
    return {
        model: tiny.train(
            tmp_path_factory.mktemp(model), spec(recipe(cache, tiny.STRATEGIES["single"], model), 1), **OWN
        )
        for model in MODELS
    }


@pytest.mark.parametrize(
    ("strategy", "model", "world_size", "chunks", "engine"),
    [
        (TP, "llama", 2, 1, "DTensor"),
        (replace(TP, shard="optimizer"), "llama", 4, 2, "DTensor + ZeroRedundancyOptimizer"),
        (PP, "gpt2", 2, 4, "Schedule1F1B"),
        (replace(PP, schedule="gpipe"), "llama", 4, 2, "ScheduleGPipe"),
        (replace(PP, schedule="interleaved"), "gpt2", 2, 2, "ScheduleInterleaved1F1B"),
    ],
)
def test_it_trains_as_one_process_does(
    tmp_path: Path,
    cache: Path,
    single: dict[str, tiny.RunFolder],
    strategy: Strategy,
    model: str,
    world_size: int,
    chunks: int,
    engine: str,
) -> None:
    run = tiny.train(tmp_path, spec(recipe(cache, strategy, model), world_size, chunks), **OWN)
    rows, expected = run.read_metrics(), single[model].read_metrics()
    for key in ("loss", "grad_norm", "eval/loss", "eval/accuracy"):
        found = [row[key] for row in rows if key in row]
        assert found == pytest.approx([row[key] for row in expected if key in row], abs=1e-5), key
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(single[model])) < 1e-4
    engaged = run.read_result().engaged
    assert engaged is not None
    assert engaged.engine == engine
    assert len(engaged.elements_per_rank["params"]) == world_size


def test_checkpoints_move_into_3d_and_out_of_it(
    tmp_path: Path, cache: Path, single: dict[str, tiny.RunFolder]
) -> None:
    """Steps 6 to 10 of one process, on 4 ranks of 3D; the last two of them again, on two of DDP."""
    expected = tiny.losses(single["llama"])
    started = single["llama"].checkpoints / "step-000005"
    settings = Checkpoint(every_steps=2, keep=9, resume_from=str(started))
    run = tiny.train(tmp_path / "3d", spec(recipe(cache, THREE_D, checkpoint=settings), 4, 2), **OWN)
    assert tiny.losses(run) == pytest.approx(expected[5:], abs=1e-5)
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(single["llama"])) < 1e-4
    engaged = run.read_result().engaged
    assert engaged is not None
    assert engaged.engine == "Schedule1F1B + DTensor + ZeroRedundancyOptimizer"
    settings = Checkpoint(resume_from=str(run.checkpoints / "step-000008"))
    ddp = recipe(cache, tiny.STRATEGIES["ddp"], checkpoint=settings)
    assert tiny.losses(tiny.train(tmp_path / "ddp", spec(ddp, 2), **OWN)) == pytest.approx(
        expected[8:], abs=1e-5
    )
