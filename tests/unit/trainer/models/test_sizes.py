"""What the configuration tells of positions and heads is what Transformers' own models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from galley.config.compose import compose_recipe
from galley.config.rules.model_sizes import (
    _SHARED_BY_HEADS,
    DEFAULTS,
    EMBEDDED_SIZES,
    num_positions,
    size_problems,
)
from galley.errors import ConfigError
from galley.model.shape import EMBEDDED
from galley.schema import Data, Model, Recipe
from trainer.models.build import positions

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ["bert", "electra", "albert", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "deberta-v2"], SMALL
    ),
    "roberta": {**SMALL, "pad_token_id": 1}, "xlm-roberta": {**SMALL, "pad_token_id": 3},
    "camembert": {**SMALL, "pad_token_id": 1},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_those_of_the_model(tmp_path: Path, kind: str) -> None:
    limit = {"n_positions": 40} if kind == "gpt2" else {"max_position_embeddings": 40}
    settings = transformers.AutoConfig.for_model(kind, **KINDS[kind], **({} if kind == "t5" else limit))
    settings.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(settings)
    known = num_positions(Model(name=str(tmp_path)))
    assert known == (None if kind == "t5" else positions(model))
    if known is not None:
        recipe = Recipe(model=Model(name=str(tmp_path)), data=Data(max_length=known + 1))
        assert [problem.where for problem in size_problems(recipe)] == ["data.max_length"]


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_of_transformers_own_configurations(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind).to_dict()
    assert {name: config[name] for name in DEFAULTS[kind]} == DEFAULTS[kind]
    assert set(_SHARED_BY_HEADS.get(kind, ())) <= DEFAULTS[kind].keys()


def test_distances_alone_have_no_limit() -> None:
    config = {"position_biased_input": False}
    assert num_positions(Model(architecture="deberta-v2", tokenizer="embedded:minilm", config=config)) is None


@pytest.mark.parametrize("tokenizer", ["embedded:minilm", "FacebookAI/roberta-base"])
def test_a_new_roberta_counts_from_the_padding_token_of_its_tokenizer(tokenizer: str) -> None:
    """`[PAD]` of MiniLM is 0, `<pad>` of RoBERTa is 1."""
    settings = transformers.AutoConfig.for_model("roberta", **SMALL)
    settings.pad_token_id = 0 if tokenizer.startswith("embedded") else 1
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(settings)
    found = num_positions(Model(architecture="roberta", tokenizer=tokenizer))
    assert found == positions(model) == 511 - settings.pad_token_id


@pytest.mark.parametrize("name", EMBEDDED_SIZES)
def test_embedded_sizes_are_those_of_the_shape(name: str) -> None:
    """Their positions, too, stay known if the recipe changes something else of them."""
    shape, sizes = EMBEDDED[name].shape, EMBEDDED_SIZES[name]
    assert (sizes["hidden_size"], sizes["num_attention_heads"]) == (shape.hidden_size, shape.num_heads)
    assert num_positions(Model(name=name, config={"num_hidden_layers": 1})) == num_positions(Model(name=name))
    assert [*EMBEDDED_SIZES] == [*EMBEDDED]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["model.architecture=gpt2", "data.max_length=2000"], "gpt2 has positions for 1024 tokens"),
        (
            ["model.architecture=gpt2", "model.config={n_head: 7}"],
            "model.config.n_head: n_embd 768 is not a multiple of n_head 7",
        ),
        (["model=minilm", "model.config={num_attention_heads: 7}"], "hidden_size 384 is not a multiple of"),
        (
            ["model=minilm", "model.config={num_hidden_layers: 2}", "data.max_length=600"],
            "bert has positions for 512 tokens",
        ),
        (["model.name=embedded:deberta_minilm", "data.max_length=513"], "deberta-v2 has positions for 512"),
        (["model.name=embedded:smollm2", "data.max_length=8193"], "llama has positions for 8192 tokens"),
    ],
)
def test_defaults_of_the_kind_count(words: list[str], complaint: str) -> None:
    new = [] if "model.architecture=gpt2" not in words else ["model.tokenizer=embedded:gpt2_bpe"]
    with pytest.raises(ConfigError) as caught:
        compose_recipe([*words, *new])
    assert complaint in str(caught.value)


@pytest.mark.parametrize("kind", _SHARED_BY_HEADS)
@pytest.mark.parametrize("heads", [2, 3])
def test_heads_that_do_not_divide_are_those_with_which_no_model_runs(
    tmp_path: Path, kind: str, heads: int
) -> None:
    names = {"distilbert": "n_heads", "gpt2": "n_head"}
    config = {**KINDS[kind], names.get(kind, "num_attention_heads"): heads}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **config}))
    found = list(size_problems(Recipe(model=Model(name=str(tmp_path)), data=Data(max_length=8))))
    try:
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **config))
        model(torch.zeros(1, 4, dtype=torch.long))
        fits = True
    except (ValueError, RuntimeError, StrictDataclassError):
        fits = False
    assert (not found) is fits
    assert fits is (heads == 2)


def test_both_are_refused_where_they_were_said() -> None:
    words = [
        "model.architecture=bert", "model.tokenizer=embedded:minilm",
        "model.config={hidden_size: 16, num_attention_heads: 3, max_position_embeddings: 64}",
        "data.max_length=100",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        compose_recipe(words)
    text = str(caught.value)
    assert "hidden_size 16 is not a multiple of num_attention_heads 3" in text
    assert "bert has positions for 64 tokens" in text
    with pytest.raises(ConfigError, match="bert has positions for 512 tokens"):
        compose_recipe(["data.max_length=600"])
