"""What a step keeps for its backward, and what it needs at its peak, against the estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

from galley.model.shape import LayerShape
from galley.schema import Batch, Data, Dtype, Model, Precision, Recipe, Shape, Train
from galley.schema import Seq2Seq as Seq2SeqSettings
from galley.schema import Task as TaskSettings
from galley.strategy.activation_memory import SDPA_DROPOUT, activation_bytes, logits_bytes
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU
from trainer.engines.precision import autocast_forward
from trainer.tasks import make_task


def saved_bytes(model: Any, batch: int, tokens: int) -> int:
    """Of everything that the graph holds at the end of a forward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=torch.ones(batch, tokens, dtype=torch.long)).logits.sum()
    found = sum(storages.values())
    del loss  # until here the graph keeps every storage at an address of its own
    return found


SHAPE = LayerShape(num_layers=4, hidden_size=64, num_heads=4, intermediate_size=256)
BATCH, TOKENS = 4, 32


def bert(attention: str = "eager", dropout: float = 0.1, positions: int = 512) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        intermediate_size=SHAPE.intermediate_size,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=positions,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).train()


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
def test_the_estimate_of_activations_is_near_what_is_kept() -> None:
    """Of the forward; while it runs backward, recomputing holds one layer more."""
    model = bert()
    eager = Model(attn_implementation="eager")
    recipe = Recipe(model=eager, data=Data(max_length=TOKENS), batch=Batch(micro_size=BATCH))
    layout = resolve_layout(recipe, CPU)
    everything = saved_bytes(model, BATCH, TOKENS)
    assert everything == pytest.approx(activation_bytes(recipe, layout, SHAPE, 0), rel=0.2)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = saved_bytes(model, BATCH, TOKENS)
    assert recomputed < everything / 8
    recomputing = replace(recipe, train=Train(gradient_checkpointing=True))
    layer = everything / SHAPE.num_layers
    estimate = activation_bytes(recomputing, layout, SHAPE, 0)
    assert recomputed + layer == pytest.approx(estimate, rel=0.3)
    assert estimate < everything / 2


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("attention", "dropout"),
    [("eager", 0.1), ("sdpa", 0.1), ("sdpa", 0.0)],
    ids=["eager", "dropout", "fused"],
)
def test_scores_are_counted_where_they_are_kept(attention: str, dropout: float, compute: Dtype) -> None:
    """At 512 tokens the scores are most of it, if they are kept."""
    model = bert(attention, dropout)
    autocast_forward(model, compute, "cpu")
    settings = {"attention_probs_dropout_prob": dropout}
    recipe = Recipe(
        model=Model(attn_implementation=attention, config=settings),
        data=Data(max_length=512),
        batch=Batch(micro_size=1),
        precision=Precision(compute=compute),
    )
    estimate = activation_bytes(recipe, resolve_layout(recipe, CPU), SHAPE, 0)
    assert 0.8 < estimate / saved_bytes(model, 1, 512) < 1.3


@pytest.mark.parametrize("kind", SDPA_DROPOUT)
def test_who_has_sdpa_is_what_transformers_says(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert MODEL_MAPPING[type(config)]._supports_sdpa
    names = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")
    assert SDPA_DROPOUT[kind] in [getattr(config, name, None) for name in names]


WORDS, ANSWERS = 20_000, (2, 64)


def measured_peak(run: Callable[[], None]) -> int:
    """Most bytes that were allocated at once, by torch's profiler; the first run is left out."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in memory))


def language_model(kind: str) -> Any:
    small = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "masked_lm":
        return AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **small, **sizes))
    if kind == "seq2seq":
        sizes = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 32}
        return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **small, **sizes))
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", **small, n_layer=1, n_embd=32, n_head=2)
    )


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["causal_lm", "masked_lm", "seq2seq"])
def test_the_estimate_of_logits_is_near_what_a_step_needs(kind: str, compute: Dtype) -> None:
    """Layers and weights are small beside them."""
    torch.manual_seed(0)
    batch, tokens = ANSWERS
    settings = Recipe(
        model=Model(shape=Shape(vocabulary=WORDS)),
        task=TaskSettings(kind, seq2seq=Seq2SeqSettings(max_target_length=tokens)),
        data=Data(max_length=tokens),
        batch=Batch(micro_size=batch),
        precision=Precision(compute=compute),
    )
    task, model = make_task(settings), language_model(kind).train()
    model.config.use_cache = False
    autocast_forward(model, compute, "cpu")
    ids = torch.randint(2, WORDS, ANSWERS)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    inputs |= {"decoder_input_ids": ids} if kind == "seq2seq" else {}
    peak = measured_peak(lambda: task.loss(model, inputs, torch.ones(batch)).backward())
    estimate = logits_bytes(settings, resolve_layout(settings, CPU))
    assert estimate is not None
    assert 0.8 < estimate / peak < 1.3
