"""Which layers FSDP gathers at once, on models of Transformers built from their configuration."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from galley.errors import ConfigError
from galley.schema import Strategy
from trainer.engines.wrapping import modules_to_wrap

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def model_of(kind: str) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, vocab_size=40, **SIZES)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize(("kind", "layer"), [("bert", "BertLayer"), ("deberta-v2", "DebertaV2Layer")])
def test_the_transformer_layers_are_wrapped(kind: str, layer: str) -> None:
    found = modules_to_wrap(model_of(kind), Strategy("fsdp", engine="fsdp", shard="params", wrap="layers"))
    assert [type(module).__name__ for module in found] == [layer] * 3


def test_a_model_without_repeated_layers_is_refused() -> None:
    model = torch.nn.ModuleDict({"only": torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Tanh()])})
    with pytest.raises(ConfigError, match="names no layers of its own"):
        modules_to_wrap(model, Strategy("fsdp", engine="fsdp", shard="params", wrap="layers"))
