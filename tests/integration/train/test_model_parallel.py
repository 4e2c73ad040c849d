"""Tensor and pipeline parallel on real ranks: the training of one process, to 1e-5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.parity import read_evidence
from galley.report.parity import compare
from galley.report.weights import compare_weights, model_files
from galley.schema import Checkpoint, Data, Eval, Model, Precision, Recipe, Strategy, Task, Train
from galley.spec import RunResult
from galley.strategy.shards import held_by_rank
from tests.integration.train import tiny
from tests.support import make_recipe

OWN = {"OWN_TASK": "1", "TINY_PLUGINS": str(Path(__file__).parent)}
SINGLE, DDP, FSDP = tiny.STRATEGIES["single"], tiny.STRATEGIES["ddp"], tiny.STRATEGIES["fsdp"]
TP = Strategy("tp", tensor_parallel=2)
PP = Strategy("pp", pipeline_parallel=2)
THREE_D = Strategy("3d", tensor_parallel=2, pipeline_parallel=2, shard="optimizer")
TRAIN = Train(max_steps=10, log_every_steps=1)
RECOMPUTED = replace(TRAIN, gradient_checkpointing=True)
MODELS = {
    "llama": Model(
        architecture="llama",
        config={
            "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4,
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
    made = make_recipe(
        tiny.tiny_recipe("single"),
        strategy=strategy,
        model=MODELS[model],
        data=Data(name="embedded:pydoc_text", max_length=32, max_samples=1, cache_dir=str(cache)),
        task=Task("causal_lm"),
        train=TRAIN,
        eval=Eval(metric="eval/loss"),
        checkpoint=Checkpoint(every_steps=5),
    )
    return make_recipe(made, **changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Trained = Callable[..., tiny.RunFolder]


@pytest.fixture(scope="module")
def trained(finished: Any) -> Trained:
    """The run of a recipe on so many ranks, which all tests share."""

    def run(made: Recipe, world_size: int, chunks: int = 1) -> tiny.RunFolder:
        folder: tiny.RunFolder = finished(tiny.tiny_spec(made, world_size, chunks), **OWN)
        return folder

    return run


def planned(made: Recipe, world_size: int, chunks: int, alone: RunResult) -> dict[str, list[int]]:
    """What the memory estimate counts on each rank, of a model of the size that one process held."""
    assert alone.engaged is not None
    (size,) = alone.engaged.elements_per_rank["params"]
    sized = replace(made, model=replace(made.model, num_parameters=size))
    found = held_by_rank(sized, tiny.tiny_spec(made, world_size, chunks).layout)
    assert found is not None
    return {kind: [getattr(one, kind) for one in found] for kind in ("params", "grads", "optimizer")}


@pytest.mark.parametrize(
    ("strategy", "model", "train", "world_size", "chunks", "engine", "share"),
    [
        (TP, "llama", TRAIN, 2, 1, "DTensor", 0.52),
        (
            replace(TP, shard="optimizer"), "llama", RECOMPUTED, 4, 2,
            "DTensor + ZeroRedundancyOptimizer", 0.52,
        ),
        (PP, "gpt2", TRAIN, 2, 4, "Schedule1F1B", 0.65),
        (replace(PP, schedule="gpipe"), "llama", RECOMPUTED, 4, 2, "ScheduleGPipe", 0.55),
        (replace(PP, schedule="interleaved"), "gpt2", TRAIN, 2, 2, "ScheduleInterleaved1F1B", 0.65),
    ],
)  # fmt: skip
def test_it_trains_as_one_process_does(
    cache: Path,
    trained: Trained,
    strategy: Strategy,
    model: str,
    train: Train,
    world_size: int,
    chunks: int,
    engine: str,
    share: float,
) -> None:
    """Also where activations are computed again. `share` of the parameters is the most on one rank."""
    single = trained(recipe(cache, SINGLE, model), 1)
    made = recipe(cache, strategy, model, train=train)
    run = trained(made, world_size, chunks)
    rows, expected = run.read_metrics(), single.read_metrics()
    for key in ("loss", "grad_norm", "eval/loss", "eval/accuracy"):
        found = [row[key] for row in rows if key in row]
        assert found == pytest.approx([row[key] for row in expected if key in row], abs=1e-5), key
    assert tiny.losses(run)[-1] < tiny.losses(run)[0]
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(single)) < 1e-4
    result, alone = run.read_result(), single.read_result()
    assert result is not None
    assert alone is not None
    assert result.engaged is not None
    assert result.engaged.engine == engine
    held, total = result.engaged.elements_per_rank, sum(t.numel() for t in tiny.weights(single).values())
    copies = world_size // strategy.model_parallel if strategy.shard == "optimizer" else 1
    assert [len(held[kind]) for kind in held] == [world_size] * 3
    assert max(*held["params"], *held["grads"]) <= share * total
    assert max(held["optimizer"]) <= 2 * share * total * (1.2 / copies if copies > 1 else 1)
    assert planned(made, world_size, chunks, alone) == held
    found = compare(
        read_evidence(tiny.tiny_spec(recipe(cache, SINGLE, model), 1), single, alone),
        read_evidence(tiny.tiny_spec(made, world_size, chunks), run, result),
        compare_weights(model_files(single.model), model_files(run.model)),
    )
    assert (found.within, found.cause) == (True, None)


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        ((SINGLE, 1, 1), (THREE_D, 4, 2), (DDP, 2, 1)),
        ((TP, 2, 1), (FSDP, 2, 1), (PP, 2, 2)),
    ],
    ids=["one process, 3d, ddp", "tp, fsdp, pp"],
)
def test_a_checkpoint_moves_on(
    tmp_path: Path, cache: Path, trained: Trained, first: Any, second: Any, third: Any
) -> None:
    """Five steps, then three under the second strategy, then two under the third."""
    expected = trained(recipe(cache, SINGLE), 1)
    strategy, world_size, chunks = first
    source = trained(recipe(cache, strategy), world_size, chunks).checkpoints / "step-000005"
    strategy, world_size, chunks = second
    settings = Checkpoint(every_steps=4, keep=9, resume_from=str(source))
    made = recipe(cache, strategy, checkpoint=settings, train=RECOMPUTED)
    run = tiny.train(tmp_path / "second", tiny.tiny_spec(made, world_size, chunks), **OWN)
    assert tiny.losses(run) == pytest.approx(tiny.losses(expected)[5:], abs=1e-5)
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(expected)) < 1e-4
    if strategy is THREE_D:
        engaged = run.read_result().engaged  # type: ignore[union-attr]
        assert engaged is not None
        assert engaged.engine == "Schedule1F1B + DTensor + ZeroRedundancyOptimizer"
        assert (alone := expected.read_result()) is not None
        assert planned(made, 4, 2, alone) == engaged.elements_per_rank
        assert max(engaged.elements_per_rank["params"]) < 0.3 * sum(engaged.elements_per_rank["params"])
    strategy, world_size, chunks = third
    settings = Checkpoint(resume_from=str(run.checkpoints / "step-000008"))
    made = recipe(cache, strategy, checkpoint=settings)
    last = tiny.train(tmp_path / "third", tiny.tiny_spec(made, world_size, chunks), **OWN)
    assert tiny.losses(last) == pytest.approx(tiny.losses(expected)[8:], abs=1e-5)


def test_in_bf16_it_stays_near_one_process(cache: Path, trained: Trained) -> None:
    """TP with a task of the user's own; PP with its loss in fp32, as outside of a pipeline."""
    short = {
        "train": replace(TRAIN, max_steps=4),
        "eval": Eval(enabled=False),
        "precision": Precision(compute="bf16"),
    }
    own = Task("language_task:Killed")
    alone = trained(recipe(cache, SINGLE, **short), 1)
    assert tiny.losses(alone) != pytest.approx(tiny.losses(trained(recipe(cache, SINGLE), 1))[:4], abs=1e-5)
    for made, chunks in ((recipe(cache, TP, task=own, **short), 1), (recipe(cache, PP, **short), 2)):
        run = trained(made, 2, chunks)
        assert tiny.losses(run) == pytest.approx(tiny.losses(alone), abs=0.01)
        result = run.read_result()
        assert result is not None
        assert result.engaged is not None
        assert (result.engaged.precision, result.engaged.master_dtype) == ("bf16", "fp32")


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (TP, "Transformers has no tensor parallel plan for 'TinyModel'"),
        (PP, "'TinyModel' is not cut into stages"),
    ],
)
def test_a_model_of_the_user_s_own_without_a_plan_is_refused(
    tmp_path: Path, strategy: Strategy, message: str
) -> None:
    made = replace(tiny.tiny_recipe("single"), strategy=strategy)
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(made, 2, strategy.pipeline_parallel)) == [2, 2]
    assert message in tiny.RunFolder(tmp_path).read_rank_errors(1)[0].message
