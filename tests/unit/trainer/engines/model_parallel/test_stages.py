"""A model in pieces computes what it computes whole, and each parameter keeps its name."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from galley.errors import ConfigError
from galley.schema import Strategy
from galley.strategy.parallel_dims import PLANNED_MODELS, STAGED_MODELS, UNPLANNED_MODELS, layer_spans
from trainer.engines.model_parallel.stages import ANATOMIES, Stage, check_layers, empty
from trainer.engines.model_parallel.tensor import tensor_plan

OWN_NAMES = {"gpt2": {"n_layer": 3, "n_head": 2, "n_embd": 8, "n_positions": 16}}
NAMES = {
    "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32, "head_dim": 4,
}  # fmt: skip


def build(kind: str, family: type = AutoModelForCausalLM) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = OWN_NAMES.get(kind, NAMES)
    config = AutoConfig.for_model(
        kind, vocab_size=50, bos_token_id=1, eos_token_id=1, pad_token_id=0, **settings
    )
    return family.from_config(config).eval()  # type: ignore[attr-defined, no-any-return]


def test_the_kernel_names_what_can_be_cut() -> None:
    assert tuple(ANATOMIES) == STAGED_MODELS
    two = Strategy(tensor_parallel=2)
    assert {kind: bool(tensor_plan(build(kind), two)) for kind in PLANNED_MODELS} == dict.fromkeys(
        PLANNED_MODELS, True
    )
    assert not [
        kind for kind in UNPLANNED_MODELS if getattr(CONFIG_MAPPING[kind], "base_model_tp_plan", None)
    ]


@pytest.mark.parametrize("kind", ANATOMIES)
def test_stages_in_a_row_are_the_model(kind: str) -> None:
    model = build(kind)
    ids = torch.randint(1, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    whole = model(input_ids=ids, attention_mask=mask).logits
    stages = [Stage(model, index, 3).eval() for index in range(3)]
    value = ids
    for stage in stages:
        value = stage(value, mask)
    assert torch.equal(value, whole)
    held = [set(stage.held()) for stage in stages]
    assert set.union(*held) == {name for name, _ in model.named_parameters()}
    tied = {"transformer.wte.weight"} if kind == "gpt2" else set()
    assert held[0] & held[1] == set() == held[1] & held[2]
    assert held[0] & held[2] == tied


def test_what_is_emptied_keeps_shapes_and_ties() -> None:
    model = build("gpt2")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    stage = Stage(model, 1, 2)
    empty(model)
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert all(p.is_meta for p in model.parameters())
    assert not any(p.is_meta for p in stage.parameters())


def test_layers_are_dealt_evenly() -> None:
    """Embeddings and head count as a layer each: BLOOM's 72 = 70 + 2 on 12 stages are 6 each."""
    assert [len(span) for span in layer_spans(70, 12)] == [5] + [6] * 10 + [5]
    assert [list(span) for span in layer_spans(3, 2)] == [[0, 1], [2]]
    assert [list(span) for span in layer_spans(4, 4)] == [[0], [1], [2], [3]]
    assert [len(span) for span in layer_spans(7, 4)] == [1, 3, 2, 1]
    assert layer_spans(5, 1) == [range(5)]


def test_a_model_that_cannot_be_cut_is_refused_by_name() -> None:
    classifier = build("bert", AutoModelForSequenceClassification)
    with pytest.raises(ConfigError, match="'BertForSequenceClassification' is not cut into stages"):
        check_layers(classifier, Strategy("pp", pipeline_parallel=2))
    with pytest.raises(
        ConfigError, match=r"3 layers are less than pipeline_parallel 2 × 2 stages a rank = 4"
    ):
        check_layers(build("llama"), Strategy("pp", pipeline_parallel=2, schedule="interleaved"))
    with pytest.raises(ConfigError, match="no tensor parallel plan for 'gpt2'"):
        tensor_plan(build("gpt2"), Strategy("tp", tensor_parallel=2))
    with pytest.raises(ConfigError, match=r"2 attention heads = tensor_parallel 4 × \? has no whole"):
        tensor_plan(build("llama"), Strategy("tp", tensor_parallel=4))
    unknown = Strategy("tp", tensor_parallel=2, tp_plan={"model.layer.*": "colwise"})
    with pytest.raises(ConfigError, match="matches no module of llama"):
        tensor_plan(build("llama"), unknown)
