"""What describes one model falls away where another is named: its size, shape, tokenizer, configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.config.compose import compose_recipe, explain_sources
from galley.model.shape import LayerShape, layer_shape
from galley.schema import Shape
from galley.spec import Engaged, RunResult
from galley.strategy.estimate import num_parameters
from hpo.promote import with_size
from tests.support import problems, user_recipe

CONFIG = "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
BERT = ("model.architecture=bert", "model.tokenizer=embedded:minilm", CONFIG)
TEXT = ("task=causal_lm", "data=pydoc_text")


def model(*words: str, user_dir: Path | None = None) -> Any:
    return compose_recipe(words, [user_dir] if user_dir else []).model


def test_a_name_on_the_command_line_takes_the_size_and_shape_of_the_other_model_away() -> None:
    assert model().num_parameters == 22_713_986
    for words in (["model.name=some/thing"], ["model.architecture=opt", "model.tokenizer=characters"]):
        found = model(*words)
        assert (found.num_parameters, found.shape) == (None, Shape())


def test_what_is_said_beside_the_name_stays() -> None:
    found = model("model.name=some/thing", "model.num_parameters=7", "model.shape={num_layers: 3}")
    assert (found.num_parameters, found.shape.num_layers) == (7, 3)
    assert model("model.name=embedded:minilm").num_parameters == 22_713_986, "the same model"


def test_a_named_model_is_not_built_by_the_architecture_of_another() -> None:
    """GPT-2's architecture, configuration and tokenizer were kept, so that the name was never read."""
    before = model("model=gpt2_tiny", *TEXT)
    assert (before.architecture, before.tokenizer, before.config["n_layer"]) == (
        "gpt2",
        "embedded:gpt2_bpe",
        2,
    )
    found = model("model=gpt2_tiny", "model.name=some/llama", *TEXT)
    assert (found.architecture, found.tokenizer, found.config) == (None, None, {})


def test_another_architecture_keeps_the_tokenizer_but_not_the_configuration() -> None:
    found = model("model=gpt2_tiny", "model.architecture=llama", *TEXT)
    assert (found.tokenizer, found.config, found.num_parameters) == ("embedded:gpt2_bpe", {}, None)


def test_trust_in_code_is_not_carried_to_another_repository(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "batch: {global_size: 8}\nmodel: {name: a/b, trust_remote_code: true}\n")
    assert model("recipe=mine", user_dir=folder).trust_remote_code
    assert not model("recipe=mine", "model.name=c/d", user_dir=folder).trust_remote_code


def test_a_value_of_the_configuration_makes_a_model_of_another_size() -> None:
    found = model("model=gpt2_tiny", "model.config.n_layer=4", *TEXT)
    assert (found.num_parameters, found.config) == (None, {"n_layer": 4, "n_head": 4, "n_embd": 64})


def test_a_recipes_own_size_is_of_the_model_that_it_chooses(tmp_path: Path) -> None:
    full = "recipe=qqp_distilbert_cpu"
    assert model(full).num_parameters == 66_955_010
    assert model(full, "profile=small").num_parameters == 22_713_986
    assert model(full, "model=deberta_minilm").num_parameters is None
    text = "defaults: [qqp_distilbert_cpu]\nmodel: gpt2\nbatch: {global_size: 8, micro_size: null}\n"
    folder = user_recipe(tmp_path, text)
    assert model("recipe=mine", user_dir=folder).num_parameters == 124_439_808


def test_a_name_in_a_recipe_is_another_model_than_that_of_the_option(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "batch: {global_size: 8}\nmodel: {name: some/thing}\n")
    assert model("recipe=mine", user_dir=folder).num_parameters is None


def test_explain_tells_what_took_the_size_away() -> None:
    value, sources = explain_sources(["model.name=a/b"], "model.num_parameters")
    assert value is None
    assert [source.where for source in sources] == ["conf/model/minilm.yaml:3", "model.name=a/b"]


def test_unknown_stays_unknown_and_an_embedded_model_is_known() -> None:
    assert num_parameters(compose_recipe(["model.name=some/thing"])) is None
    assert num_parameters(compose_recipe(["model.name=embedded:smollm2", *TEXT])) == 134_515_008
    assert layer_shape(model("model.name=embedded:smollm2", *TEXT)) == LayerShape(30, 576, 9, 1536)
    assert layer_shape(model(*BERT)) == LayerShape(1, 16, 2, 32)


@pytest.mark.parametrize(
    ("kind", "head", "config"),
    [
        ("bert", "", {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}),
        ("roberta", "", {"hidden_size": 24, "num_hidden_layers": 3, "vocab_size": 99}),
        ("distilbert", "", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
        ("gpt2", "ForCausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 500}),
        ("llama", "ForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                                  "intermediate_size": 24, "num_key_value_heads": 1}),
    ],
)  # fmt: skip
def test_the_size_is_computed_from_a_local_configuration(
    tmp_path: Path, kind: str, head: str, config: dict[str, Any]
) -> None:
    """Against Transformers' own model of that configuration, on the meta device."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    heads = {} if "n_heads" in config or "n_head" in config else {"num_attention_heads": 2}
    settings = transformers.AutoConfig.for_model(kind, **{**heads, **config})
    with torch.device("meta"):
        built = getattr(transformers, f"AutoModel{head}").from_config(settings)
    (tmp_path / "config.json").write_text(json.dumps({**settings.to_dict(), "model_type": kind}))
    words = TEXT if head else ()
    recipe = compose_recipe([f"model.name={tmp_path}", *words])
    assert num_parameters(recipe) == sum(p.numel() for p in built.parameters())


def test_the_size_of_a_new_model_is_that_of_its_configuration_and_tokenizer() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    settings = transformers.BertConfig(vocab_size=30522, **sizes)
    with torch.device("meta"):
        built = transformers.BertModel(settings)
    assert num_parameters(compose_recipe(BERT)) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    "swept",
    [
        "model.name=a/b,c/d",
        "model.architecture=bert,gpt2",
        "model=minilm,gpt2",
        "hpo.space.model.name=[a/b,c/d]",
        "hpo.space.model=[minilm,gpt2]",
    ],
)
@pytest.mark.parametrize("size", ["model.num_parameters=7", "model.shape={num_layers: 3}"])
def test_one_size_is_not_typed_for_all_models_of_a_sweep(swept: str, size: str) -> None:
    told = problems("hpo=optuna", swept, size)
    key = swept.removeprefix("hpo.space.").split("=")[0]
    what = f"{size}: is the size of one model, but the sweep has several ({key})"
    assert any(one.startswith(what) for one in told), told


@pytest.mark.parametrize("swept", ["optim.lr=1e-4,1e-5", "hpo.space.model.num_parameters=[1000,2000]"])
def test_a_size_beside_another_sweep_stays(swept: str) -> None:
    assert model("hpo=optuna", swept, "model.num_parameters=7").num_parameters == 7


def test_a_promoted_recipe_has_the_size_that_the_run_counted() -> None:
    recipe = compose_recipe(["model.name=some/thing"])
    engaged = Engaged("ddp", "DistributedDataParallel", "gloo", "fp32", {}, num_parameters=1_234_567)
    result = RunResult("succeeded", 0, engaged=engaged)
    assert with_size(recipe, result).model.num_parameters == 1_234_567
    assert with_size(recipe, None).model.num_parameters is None
    known = compose_recipe([])
    assert with_size(known, result).model.num_parameters == 22_713_986, "the size that is known stays"
    adapted = with_size(compose_recipe(["model.name=some/thing", "model.lora.r=4"]), result)
    assert adapted.model.num_parameters is None, "the run has counted the adapters, too"
