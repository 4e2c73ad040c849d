"""What a step keeps for its backward, counted in bytes of saved tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from galley.model.shape import LayerShape
from galley.schema import Batch, Data, Recipe, Train
from galley.strategy.estimate import activation_bytes
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU


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


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        intermediate_size=SHAPE.intermediate_size,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config).train()


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")
def test_the_estimate_of_activations_is_near_what_is_kept() -> None:
    """Of the forward; while it runs backward, recomputing holds one layer more."""
    model = bert()
    recipe = Recipe(data=Data(max_length=TOKENS), batch=Batch(micro_size=BATCH))
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
