"""What the kernel counts on each rank without torch is what the trainer's own cut leaves there."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, GPTNeoXForCausalLM

from galley.config.compose import compose_recipe
from galley.model.causal_lm import FAMILIES, parameters_of
from galley.schema import Batch, Cluster, Model, Recipe, Strategy, Task
from galley.spec import ClusterFacts, Layout
from galley.strategy.estimate import estimate_memory
from galley.strategy.layout import declared_facts, resolve_layout
from galley.strategy.parallel_dims import PLANNED_MODELS, STAGED_MODELS
from galley.strategy.shards import held_by_rank, held_by_stage
from tests.unit.trainer.engines.model_parallel.test_stages import NAMES, OWN_NAMES
from trainer.engines.model_parallel.stages import Stage
from trainer.engines.model_parallel.tensor import tensor_plan

FACTS = ClusterFacts("here", 0, 0.0, 8, 16.0)
# The tables have the names of Transformers 5; in 4.57 the head of GPT-NeoX has another one.
RENAMED = {"gpt_neox"} if "embed_out" in GPTNeoXForCausalLM._tp_plan else set()
TYPES = tuple(kind for kind in FAMILIES if kind not in RENAMED)
VOCABULARY = 51  # odd: it is cut unevenly


def on_meta(kind: str, **config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))


def settings(kind: str, **more: Any) -> dict[str, Any]:
    return {**OWN_NAMES.get(kind, {**NAMES, "num_key_value_heads": 4}), "vocab_size": VOCABULARY, **more}


def described(kind: str, **more: Any) -> tuple[Model, Any]:
    """A model as a recipe says it, and as Transformers makes it."""
    config = settings(kind, **more)
    made = on_meta(kind, **config)
    count = sum(p.numel() for p in made.parameters())
    config.pop("vocab_size")  # a new model's is its tokenizer's
    return Model(architecture=kind, config=config, tokenizer="characters", num_parameters=count), made


def test_every_type_that_can_be_cut_is_known() -> None:
    assert {*STAGED_MODELS, *PLANNED_MODELS} == {*FAMILIES}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_names_shapes_and_plan_are_those_of_transformers(kind: str, tied: bool) -> None:
    model, made = described(kind, tie_word_embeddings=tied)
    found = parameters_of(model)
    assert found is not None
    assert dict(found.shapes) == {name: tuple(p.shape) for name, p in made.named_parameters()}
    if kind in PLANNED_MODELS:
        cut = {name: style for name, style in found.styles.items() if name != found.tied}
        assert cut == tensor_plan(made, Strategy(tensor_parallel=2))


@pytest.mark.parametrize("kind", TYPES)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    layers = {"n_layer" if kind == "gpt2" else "num_hidden_layers": 1}
    made = on_meta(kind, **layers)
    count = sum(p.numel() for p in made.parameters())
    found = parameters_of(Model(architecture=kind, config=layers, num_parameters=count))
    assert found is not None
    assert dict(found.shapes) == {name: tuple(p.shape) for name, p in made.named_parameters()}
    depth = CONFIG_MAPPING[kind]().num_hidden_layers
    known = parameters_of(Model(architecture=kind, num_parameters=10**12))
    assert known is not None
    assert len(known.layers) == depth


STRATEGIES = {
    "tp2": (Strategy("tp", tensor_parallel=2), 2),
    "tp4": (Strategy("tp", tensor_parallel=4), 4),
    "tp2 x 2": (Strategy("tp", tensor_parallel=2, shard="optimizer"), 4),
    "pp2": (Strategy("pp", pipeline_parallel=2), 4),
    "interleaved": (Strategy("pp", pipeline_parallel=2, schedule="interleaved"), 2),
    "3d": (Strategy("3d", tensor_parallel=2, pipeline_parallel=2, shard="optimizer"), 8),
}


def lay_out(model: Model, strategy: Strategy, ranks: int) -> tuple[Recipe, Layout]:
    recipe = Recipe(
        model=model,
        strategy=strategy,
        task=Task("causal_lm"),
        batch=Batch(micro_size=1),
        cluster=Cluster(procs_per_node=ranks),
    )
    return recipe, resolve_layout(recipe, FACTS)


def counted(made: Any, strategy: Strategy, stage: int, share: int) -> int:
    """Elements of the trainer's own stage, each of whose tensors torch cuts."""
    plan = tensor_plan(made, strategy) if strategy.tensor_parallel > 1 else {}
    mine: dict[str, torch.Tensor] = {}
    for index in range(stage, strategy.num_stages, strategy.pipeline_parallel):
        one = Stage(made, index, strategy.num_stages) if strategy.num_stages > 1 else None
        mine |= dict(made.named_parameters()) if one is None else one.held()
    total = 0
    for name, tensor in mine.items():
        style = plan.get(name.rpartition(".")[0], "replicated")
        if style == "replicated" or (style == "rowwise" and tensor.ndim == 1):
            total += tensor.numel()
        else:
            pieces = tensor.chunk(strategy.tensor_parallel, dim=1 if style == "rowwise" else 0)
            total += pieces[share].numel() if share < len(pieces) else 0
    return total


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", PLANNED_MODELS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_each_rank_holds_what_the_trainer_leaves_on_it(name: str, kind: str, tied: bool) -> None:
    strategy, ranks = STRATEGIES[name]
    model, made = described(kind, tie_word_embeddings=tied, num_hidden_layers=5)
    recipe, layout = lay_out(model, strategy, ranks)
    held = held_by_rank(recipe, layout)
    assert held is not None
    copies, tensor = layout.data_parallel, strategy.tensor_parallel
    expected = [
        counted(made, strategy, rank // (copies * tensor), rank % tensor) for rank in range(layout.world_size)
    ]
    assert [one.params for one in held] == [one.grads for one in held] == expected
    assert sum(one.optimizer for one in held) == 2 * sum(expected) // (
        copies if strategy.shard == "optimizer" else 1
    )


def test_a_plan_of_the_recipe_goes_over_the_model_s() -> None:
    """Columns in place of rows: 16 × ⌈51 ÷ 2⌉ and 16 × 25 against 8 × 51 elements."""
    model, _ = described("gpt_neox")
    rows = held_by_rank(*lay_out(model, Strategy("tp", tensor_parallel=2), 2))
    other = Strategy("tp", tensor_parallel=2, tp_plan={"lm_h*": "rowwise"})
    columns = held_by_rank(*lay_out(model, other, 2))
    assert rows is not None
    assert columns is not None
    difference = [a.params - b.params for a, b in zip(rows, columns, strict=True)]
    assert difference == [26 * 16 - 8 * 51, 25 * 16 - 8 * 51]


@pytest.mark.parametrize(
    ("words", "vocabulary"),
    [
        (["recipe=bloom_3d"], 250_680),  # tokens of bigscience/bloom
        (["recipe=bloom_3d", "profile=small"], 50_257),  # of GPT-2
        (["recipe=wikitext2_gpt2"], 50_257),
        (["recipe=wikitext2_gpt2", "profile=small"], 50_257),
    ],
)
def test_a_stated_size_is_that_of_the_tokenizer_s_vocabulary(words: list[str], vocabulary: int) -> None:
    model = compose_recipe(words).model
    found = parameters_of(replace(model, architecture=model.architecture or "gpt2"))
    assert found is not None
    assert next(iter(found.shapes.values()))[0] == vocabulary
    assert sum(map(prod, found.shapes.values())) == model.num_parameters


def test_bloom_fits_the_gpus_it_was_trained_on() -> None:
    """Of the first stage: 5 layers and the embeddings, each a quarter, and ZeRO-1's largest tensor.

    By hand: a layer of h = 14336 has 12·h² weights, and 13·h others of which 4·h + 2·h are not cut.
    """
    recipe = compose_recipe(["recipe=bloom_3d"])
    layout = resolve_layout(recipe, declared_facts(recipe))
    stages, h = held_by_stage(recipe, layout), 14336
    assert stages is not None
    layer = 12 * h * h // 4 + 7 * h // 4 + 6 * h
    embeddings = 250_680 // 4 * h
    assert {held.params for held in stages[0]} == {5 * layer + embeddings}
    assert {held.params for held in stages[1]} == {6 * layer}
    assert max(held.optimizer for held in stages[0]) == pytest.approx(2 * embeddings, rel=0.01)
    estimate = estimate_memory(recipe, layout)
    assert estimate is not None
    assert estimate.total_gib == pytest.approx((8 * 5 * layer + 16 * embeddings) / 2**30, rel=0.01)
    assert estimate.peak_gib < 0.9 * 80


def test_a_model_of_another_type_is_not_guessed() -> None:
    recipe, layout = lay_out(Model("somebody/model", num_parameters=1000), STRATEGIES["tp2"][0], 2)
    assert held_by_rank(recipe, layout) is None
    stale = replace(recipe, model=Model(architecture="llama", num_parameters=1000))
    assert held_by_rank(stale, layout) is None
