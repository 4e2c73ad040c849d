"""`strategy=auto` by table: the simplest strategy that fits, with its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from cli.explain import explain
from cli.options import Options
from cli.plan import plan
from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.paths import CONF
from galley.run.seal import seal
from galley.schema import Batch, Data, Model, Precision, Recipe, Shape, Strategy, Task, Train
from galley.spec import ClusterFacts
from galley.strategy.auto import USABLE, choose, cuts
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU

GPUS = ClusterFacts(
    hostname="h", gpus=8, gpu_memory_gib=24, physical_cores=32, memory_gib=500, bf16=True, declared=True
)
SHAPE = Shape(num_layers=24, hidden_size=1024, num_heads=16)
RECIPE = Recipe(
    model=Model(architecture="llama", tokenizer="characters", num_parameters=10**9, shape=SHAPE),
    task=Task("causal_lm"),
    data=Data(max_length=512),
    batch=Batch(global_size=64, micro_size=1),
    train=Train(gradient_checkpointing=True),
)


def under(recipe: Recipe) -> Callable[[str], Recipe]:
    """As composing does it, but for the files of the recipe."""

    def recipe_of(name: str) -> Recipe:
        return replace(
            recipe, strategy=Strategy(**yaml.safe_load((CONF / f"strategy/{name}.yaml").read_text()))
        )

    return recipe_of


def sized(billions: float, **changes: object) -> Recipe:
    model = replace(RECIPE.model, num_parameters=int(billions * 10**9))
    return replace(RECIPE, model=model, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("billions", "gpus", "gib", "words"),
    [
        (0.9, 1, 24, "single"),
        (1.5, 1, 24, "zero2_offload"),  # GPT-2 XL: 16 bytes a parameter are all of 24 GB
        (0.9, 8, 24, "ddp"),
        (1.5, 8, 24, "zero1"),
        (4.0, 8, 24, "zero2"),
        (7.0, 8, 24, "fsdp"),
        (20.0, 8, 24, "zero3_offload"),
        (15.5, 8, 80, "fsdp"),  # starcoder, on 8 GPUs of 80 GB
    ],
)
def test_the_simplest_that_fits(billions: float, gpus: int, gib: float, words: str) -> None:
    facts = replace(GPUS, gpus=gpus, gpu_memory_gib=gib)
    choice = choose(under(sized(billions)), facts)
    assert choice.tried[-1].name == words
    needed = choice.tried[-1].needed_gib
    assert needed is not None
    assert needed <= USABLE * gib
    assert all(one.refused for one in choice.tried[:-1])


def test_models_are_cut_over_the_fewest_ranks_that_hold_them() -> None:
    assert cuts("tp", 8, 16, 16) == [(2, 1), (4, 1), (8, 1)]
    assert cuts("pp", 1, 6, 4) == [(1, 2), (1, 3)]
    assert cuts("3d", 2, 8, 8) == [(2, 2), (2, 4)]
    eager = replace(RECIPE.model, attn_implementation="eager")
    long = replace(RECIPE, model=eager, data=Data(max_length=8192), train=Train())
    assert choose(under(long), replace(GPUS, gpu_memory_gib=80)).tried[-1].name == "tp tensor_parallel=4"


def test_only_eager_attention_needs_its_scores() -> None:
    """24 layers × 16 heads × 8192² × 9 bytes, which are 216 GiB, refuse every strategy of copies."""
    long = replace(RECIPE, data=Data(max_length=8192), train=Train())
    assert choose(under(long), replace(GPUS, gpu_memory_gib=80)).tried[-1].name == "ddp"


TEN_BILLION = replace(
    RECIPE.model,
    architecture="gpt2",
    num_parameters=10**10,
    shape=Shape(num_layers=48, hidden_size=4096, num_heads=32),
)


def test_only_a_cut_that_was_tried_is_chosen() -> None:
    """A batch of twelve is not for eight copies, nor for the eight ranks of FSDP."""
    recipe = replace(RECIPE, model=TEN_BILLION, precision=Precision(compute="bf16"), batch=Batch(12))
    choice = choose(under(recipe), replace(GPUS, gpu_memory_gib=32))
    assert choice.tried[-1].name == "pp pipeline_parallel=8"
    assert "\ntp: nobody has tried a tensor parallel plan for gpt2\n" in "\n".join(choice.lines())


def test_fsdp_holds_in_16_bits_what_it_holds_in_32() -> None:
    """16 bytes a parameter over eight ranks, 18.6 GiB, and no copy of the weights besides."""
    recipe = replace(RECIPE, model=TEN_BILLION, precision=Precision(compute="bf16"))
    assert choose(under(recipe), GPUS).tried[-1].name == "fsdp"


def test_the_host_must_hold_what_is_offloaded() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(under(replace(RECIPE, model=TEN_BILLION)), replace(GPUS, gpu_memory_gib=20, memory_gib=100))
    told = "zero3_offload: about 149.01 GiB a node are too much for the 100.00 GiB of its host"
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "facts", "where", "message"),
    [
        (sized(200.0), GPUS, "strategy", "no strategy fits 90% of 24.00 GiB a rank (ddp: about 2980"),
        (RECIPE, replace(GPUS, gpu_memory_gib=0), "strategy", "needs to know the memory of a device"),
        (
            replace(RECIPE, model=Model(name="somebody/unknown")),
            GPUS,
            "model.num_parameters",
            "needs to know the size of the model",
        ),
    ],
)
def test_nothing_is_guessed(recipe: Recipe, facts: ClusterFacts, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(under(recipe), facts)
    assert caught.value.problems[0].where == where
    assert message in str(caught.value)


@pytest.mark.slow
def test_it_is_the_same_run_as_with_the_strategy_named(capsys: pytest.CaptureFixture[str]) -> None:
    """bloom_3d as published, were its GPUs of 80 GB: as many ranks a copy as BLOOM had."""
    words, gpus = ["recipe=bloom_3d", "cluster.gpu_memory_gib=80"], Options(json=True)
    assert plan([*words, "strategy=auto"], gpus) == 0
    chosen = json.loads(capsys.readouterr().out)
    named = ["strategy=3d", "strategy.tensor_parallel=8", "strategy.pipeline_parallel=6"]
    assert chosen["auto"]["tried"][-1]["words"] == named
    assert plan([*words, *named], gpus) == 0
    by_name = json.loads(capsys.readouterr().out)
    assert by_name["auto"] is None
    assert chosen["sha256"] == by_name["sha256"]
    assert chosen["layout"]["model_parallel"] == 8 * 6


@pytest.mark.slow
def test_it_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        explain(
            ["strategy.shard", "strategy=auto", "recipe=bloom_3d", "cluster.gpu_memory_gib=80"], Options()
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert shown.startswith('strategy.shard = "optimizer"\n')
    assert "3d tensor_parallel=8 pipeline_parallel=6 needs about" in shown
    assert "conf/strategy/3d.yaml:6  strategy.shard = optimizer" in shown


def test_what_it_settles_cannot_be_set_besides_and_it_never_reaches_a_run() -> None:
    with pytest.raises(ConfigError, match="strategy=auto settles it"):
        compose_recipe(["strategy=auto", "strategy.tensor_parallel=2"])
    recipe = compose_recipe(["strategy=auto"])
    with pytest.raises(ConfigError, match="name a strategy"):
        seal(recipe, resolve_layout(recipe, CPU))
