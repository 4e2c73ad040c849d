"""Tensor, pipeline and data parallel: each equation is checked before anything starts, and stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Cluster, Lora, Model, Recipe, Shape, Strategy, Task, Train
from galley.spec import ClusterFacts, Layout
from galley.strategy.estimate import estimate_memory
from galley.strategy.layout import resolve_layout
from galley.strategy.parallel_dims import chunks_fit
from galley.tasks import built_in_tasks

TP = Strategy("tp", tensor_parallel=2)
PP = Strategy("pp", pipeline_parallel=2)
THREE_D = Strategy("3d", tensor_parallel=2, pipeline_parallel=2, shard="optimizer")
LLAMA = Model(architecture="llama", tokenizer="characters")


def lay_out(strategy: Strategy, procs: int, nodes: int = 1, **batch: int) -> Layout:
    recipe = Recipe(
        strategy=strategy,
        cluster=Cluster(procs_per_node=procs, nodes=nodes),
        batch=Batch(**batch),  # type: ignore[arg-type]
    )
    return resolve_layout(recipe, ClusterFacts("here", 0, 0.0, 8, 16.0))


def test_the_global_batch_is_micro_times_chunks_times_copies() -> None:
    layout = lay_out(replace(PP, pipeline_parallel=4), 8, nodes=2, micro_size=8, accumulation=32)
    assert (layout.data_parallel, layout.global_size) == (4, 8 * 32 * 4)
    assert lay_out(TP, 4, global_size=8).micro_size == 4
    chunked = lay_out(PP, 2, global_size=8)
    assert (chunked.micro_size, chunked.accumulation) == (4, 2)


@pytest.mark.parametrize(
    ("strategy", "procs", "nodes", "batch", "equation"),
    [
        (THREE_D, 6, 1, {"micro_size": 1}, "6 ranks = tensor_parallel 2 × pipeline_parallel 2"),
        (replace(TP, tensor_parallel=4), 2, 2, {"micro_size": 1}, "4 does not divide the 2 processes"),
        (TP, 4, 1, {"global_size": 7}, "global_size 7 = micro_size ? × accumulation ? × 2 ranks"),
        (PP, 2, 1, {"micro_size": 2, "accumulation": 1}, "1f1b needs at least 2 micro-batches a step"),
        (
            replace(PP, pipeline_parallel=4, schedule="interleaved"), 4, 1,
            {"micro_size": 1, "accumulation": 9}, "cannot deal 9 micro-batches to 4 ranks",
        ),
    ],
)  # fmt: skip
def test_an_equation_without_a_solution_is_stated(
    strategy: Strategy, procs: int, nodes: int, batch: dict[str, int], equation: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        lay_out(strategy, procs, nodes, **batch)
    assert equation in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"strategy": replace(TP, tensor_parallel=1)}, "strategy.tensor_parallel"),
        ({"strategy": replace(TP, engine="fsdp", shard="params")}, "strategy.tensor_parallel"),
        ({"strategy": replace(TP, shard="params")}, "strategy.shard"),
        ({"strategy": replace(TP, schedule="gpipe")}, "strategy.schedule"),
        ({"strategy": replace(PP, tp_plan={"a": "colwise"})}, "strategy.tp_plan"),
        ({"strategy": replace(TP, tp_plan={"a": "diagonal"})}, "strategy.tp_plan"),
        ({"strategy": replace(PP, stages_per_rank=2)}, "strategy.stages_per_rank"),
        ({"strategy": PP, "task": Task("seq2seq")}, "task.kind"),
        ({"strategy": TP, "task": Task("contrastive")}, "task.kind"),
        ({"strategy": PP, "model": replace(LLAMA, architecture="opt")}, "strategy.pipeline_parallel"),
        ({"strategy": TP, "model": replace(LLAMA, lora=Lora(r=2, merge=True))}, "model.lora.method"),
        ({"strategy": TP, "train": Train(compile=True)}, "train.compile"),
        ({"strategy": TP, "model": replace(LLAMA, architecture="opt")}, "strategy.tensor_parallel"),
        ({"strategy": TP, "model": Model("embedded:minilm")}, "strategy.tensor_parallel"),
        ({"strategy": PP, "model": replace(LLAMA, shape=Shape(1, 8, 2))}, "strategy.pipeline_parallel"),
        ({"strategy": TP, "model": replace(LLAMA, shape=Shape(4, 9, 3))}, "strategy.tensor_parallel"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, object], where: str) -> None:
    base = Recipe(model=LLAMA, task=Task("causal_lm"), batch=Batch(global_size=8))
    problems = recipe_problems(replace(base, **changes))  # type: ignore[arg-type]
    assert [problem.where for problem in problems] == [where]


def test_a_task_of_the_user_s_own_is_not_staged(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    own = Recipe(task=Task("mine:Own"), model=LLAMA, batch=Batch(global_size=8), plugins=[str(tmp_path)])
    assert recipe_problems(replace(own, strategy=TP)) == []
    (problem,) = recipe_problems(replace(own, strategy=PP))
    assert problem.where == "task.kind"
    assert "a task of your own is not pipeline parallel (strategy 'pp')" in problem.what


def test_tasks_are_known_and_schedules_carry_what_torch_says() -> None:
    assert [task.name for task in built_in_tasks() if task.pipeline_parallel] == ["causal_lm"]
    assert all(task.tensor_parallel for task in built_in_tasks() if task.pipeline_parallel)
    assert [n for n in range(1, 9) if chunks_fit(replace(PP, pipeline_parallel=4), n)] == [4, 5, 6, 7, 8]
    interleaved = replace(PP, pipeline_parallel=4, schedule="interleaved")
    assert [n for n in range(1, 13) if not chunks_fit(interleaved, n)] == [9, 11]


def test_each_rank_needs_its_part() -> None:
    shape = Shape(num_layers=4, hidden_size=64, num_heads=4, intermediate_size=256)
    layers, rest = 4 * 12 * 64 * 64, 10_000
    recipe = Recipe(model=Model(shape=shape, num_parameters=layers + rest), strategy=THREE_D)
    estimate = estimate_memory(recipe, lay_out(THREE_D, 8, micro_size=1))
    assert estimate is not None
    held = 4 * (layers / 2 / 2 + rest) / 2**30  # whose plan nobody knows: embeddings are not cut
    assert estimate.params_gib == pytest.approx(held)
    assert estimate.grads_gib == pytest.approx(held)
    assert estimate.optimizer_gib == pytest.approx(2 * held / 2)  # over two copies
