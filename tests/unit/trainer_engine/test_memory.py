"""What a step keeps for its backward, counted in bytes of saved tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(model: Any, batch: int, tokens: int) -> int:
    """Of everything that the graph holds at the end of a forward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.ones(batch, tokens, dtype=torch.long)).logits.sum()
    return sum(storages.values())


def bert(attention: str, layers: int = 3) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).train()


def test_recomputing_keeps_one_tensor_a_layer() -> None:
    model = bert("eager")
    everything = saved_bytes(model, 4, 16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = saved_bytes(model, 4, 16)
    assert recomputed < everything / 4
