"""Loading a model: whose head is drawn when, from which seed, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.config.rules.model import ATTENTION
from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Data, Model, Recipe, Task
from galley.schema.task import Seq2Seq
from trainer.models.build import load_classifier, load_model, load_tokenizer, positions
from trainer.tasks import make_task


def recipe(name: str | Path, seed: int = 42, max_length: int = 32, **model: Any) -> Recipe:
    return Recipe(model=Model(name=str(name), **model), data=Data(max_length=max_length), seed=seed)


def head(model: torch.nn.Module) -> torch.Tensor:
    weight: torch.Tensor = model.get_parameter("classifier.weight").detach()
    return weight


def edited(source: Path, target: Path, file: str = "config.json", **values: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps({**config, **values}))
    return target


def test_a_head_that_fits_is_kept(tiny_model: Path) -> None:
    model = load_classifier(recipe(tiny_model), 3)
    from transformers import BertForSequenceClassification

    assert torch.equal(head(model), head(BertForSequenceClassification.from_pretrained(tiny_model)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.use_cache is False  # type: ignore[union-attr]


def test_a_head_of_another_size_is_an_error_with_the_way_out(tiny_model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_classifier(recipe(tiny_model), 2)
    assert str(caught.value) == (
        f"model.name={tiny_model}: its head has not 2 labels (classifier.bias, classifier.weight)\n"
        "    model.ignore_mismatched_head=true starts with a new head"
    )


def test_a_new_head_is_logged_and_the_body_kept(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "galley"):
        model = load_classifier(recipe(tiny_model, ignore_mismatched_head=True), 2)
    assert caplog.messages == ["new weights, drawn from seed 42: classifier.bias, classifier.weight"]
    assert head(model).shape == (2, 16)
    stored = load_classifier(recipe(tiny_model), 3)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.get_parameter(name), stored.get_parameter(name))


def test_the_new_head_depends_on_the_seed_and_on_nothing_else(tiny_model: Path) -> None:
    wanted = recipe(tiny_model, ignore_mismatched_head=True)
    torch.manual_seed(1)
    first = head(load_classifier(wanted, 2))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = head(load_classifier(wanted, 2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, head(load_classifier(replace(wanted, seed=43), 2)))
    assert first.abs().max() > 0


def test_a_body_of_another_size_is_refused_even_with_a_new_head(tiny_model: Path, tmp_path: Path) -> None:
    folder = edited(tiny_model, tmp_path / "model", max_position_embeddings=48)
    with pytest.raises(ConfigError) as caught:
        load_classifier(recipe(folder, ignore_mismatched_head=True), 2)
    assert str(caught.value) == (
        f"model.name={folder}: its weights do not fit its config.json:"
        " bert.embeddings.position_embeddings.weight"
    )


def test_the_attention_implementation_is_passed_on(tiny_model: Path) -> None:
    model: Any = load_classifier(recipe(tiny_model, attn_implementation="eager"), 3)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["./no/such/model", "/no/such/model", "~/no/such/model"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(recipe(name))
    assert str(caught.value) == f"model.name={name}: does not exist"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(recipe(tmp_path))
    assert str(caught.value) == f"model.name={tmp_path}: is a folder without config.json"


def test_a_broken_local_model_is_not_blamed_on_the_hub(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited(tiny_model, tmp_path / "model")
    (folder / "config.json").write_text("{")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError) as caught:
        load_classifier(recipe(folder), 3)
    assert str(caught.value).startswith(f"model.name={folder}: cannot be loaded: ")
    assert "hub" not in str(caught.value)


def test_more_tokens_than_the_model_reads(tiny_model: Path, tmp_path: Path) -> None:
    folder = edited(tiny_model, tmp_path / "model", "tokenizer_config.json", model_max_length=64)
    assert load_tokenizer(recipe(folder, max_length=64)).is_fast
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(recipe(folder, max_length=65))
    assert str(caught.value) == f"data.max_length=65: model.name={folder} reads at most 64 tokens"


def test_transformers_prints_nothing(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_classifier(recipe(tiny_model, ignore_mismatched_head=True), 2)
    assert capfd.readouterr() == ("", "")


def test_an_attention_that_does_not_exist_or_cannot_be_used_is_refused(tiny_model: Path) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert {*ATTENTION} <= {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    (problem,) = recipe_problems(
        replace(recipe(tiny_model, attn_implementation="spda"), batch=Batch(8), data=Data(max_length=16))
    )
    assert problem.what == "Transformers knows no 'spda'"
    assert problem.hint.startswith("did you mean 'sdpa'? valid: eager, sdpa, flex_attention")
    with pytest.raises(ConfigError) as caught:
        load_classifier(recipe(tiny_model, attn_implementation="flash_attention_2"), 3)
    assert str(caught.value).startswith("model.attn_implementation=flash_attention_2: cannot be used: ")


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows that are there are kept, the new ones follow from the seed, and the log counts them."""
    wanted = recipe(tiny_model)
    tokenizer, stored = load_tokenizer(wanted), load_classifier(wanted, 3)
    had = stored.get_input_embeddings().num_embeddings  # type: ignore[operator]
    missing = had - len(tokenizer) + 5
    tokenizer.add_tokens([f"<new {number}>" for number in range(missing)])
    with caplog.at_level(logging.INFO, "galley"):
        model = load_classifier(wanted, 3, tokenizer)
    assert caplog.messages == [f"5 new embeddings for the tokenizer's {had + 5} tokens, drawn from seed 42"]
    name = "bert.embeddings.word_embeddings.weight"
    assert model.get_parameter(name).shape[0] == had + 5
    assert torch.equal(model.get_parameter(name)[:had], stored.get_parameter(name))
    again = load_classifier(wanted, 3, tokenizer)
    assert torch.equal(model.get_parameter(name), again.get_parameter(name))


BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_position_embeddings": 16}  # fmt: skip
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    ("architecture", "config", "limit"),
    [
        ("bert", {**SMALL, "max_position_embeddings": 16}, 16),
        ("roberta", {**SMALL, "max_position_embeddings": 18, "pad_token_id": 1}, 16),
        ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 16}, 16),
        ("bart", BART, 16),
        ("deberta-v2", {**SMALL, "max_position_embeddings": 16, "relative_attention": True,
                        "position_biased_input": False}, None),
        ("t5", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16}, None),
    ],
)  # fmt: skip
def test_the_longest_text_of_a_model_is_what_it_computes(
    architecture: str, config: dict[str, Any], limit: int | None
) -> None:
    """One token more than `positions` ends in an error of torch, or it has no limit."""
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model(architecture, vocab_size=40, **config)).eval()
    assert positions(model) == limit
    pair = {"decoder_input_ids": torch.full((1, 2), 5)} if model.config.is_encoder_decoder else {}
    model(input_ids=torch.full((1, limit or 40), 5), **pair)
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5), **pair)


@pytest.mark.parametrize(
    "auto",
    ["AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForQuestionAnswering",
     "AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM"],
)  # fmt: skip
def test_more_tokens_than_positions_are_refused_for_every_head(auto: str) -> None:
    model = Model(architecture="bert", config={**SMALL, "vocab_size": 40, "max_position_embeddings": 16})
    load_model(Recipe(model=model, data=Data(max_length=16)), auto)
    with pytest.raises(ConfigError) as caught:
        load_model(Recipe(model=model, data=Data(max_length=17)), auto)
    assert str(caught.value) == "data.max_length=17: bert has positions for 16 tokens\n    at most 16"


def test_a_target_longer_than_the_decoder_is_refused() -> None:
    task = Task("seq2seq", seq2seq=Seq2Seq(max_target_length=17))
    recipe = Recipe(model=Model(architecture="bart", config=BART), data=Data(max_length=16), task=task)
    with pytest.raises(ConfigError, match=r"task.seq2seq.max_target_length=17: bart has positions for 16"):
        make_task(recipe).model()


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    model = Model(architecture="bert", config={**SMALL, "num_attention_heads": 3})
    with pytest.raises(ConfigError, match=r"model.config: no bert can be made: The hidden size \(16\)"):
        load_model(Recipe(model=model, data=Data(max_length=16)), "AutoModel")
