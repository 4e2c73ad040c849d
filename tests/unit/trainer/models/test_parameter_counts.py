"""The sizes that recipes state for the memory estimate, counted on models that are never materialized."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from galley.config.compose import compose_recipe
from trainer.models.hub import quiet_transformers

BERT_LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096
}  # fmt: skip
# recipe -> (model type, auto class, what the model's own configuration says besides the type's defaults)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mrpc_deberta": (
        "deberta-v2", "SequenceClassification",
        {
            "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24,
            "intermediate_size": 6144, "type_vocab_size": 0, "relative_attention": True,
            "position_buckets": 256, "max_relative_positions": -1, "position_biased_input": False,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
            "conv_kernel_size": 3, "conv_act": "gelu",
        },
    ),
    "mudoconv_blenderbot": (
        "blenderbot", "Seq2SeqLM",
        {
            "vocab_size": 8008, "d_model": 1280, "encoder_layers": 2, "decoder_layers": 12,
            "encoder_attention_heads": 32, "decoder_attention_heads": 32, "encoder_ffn_dim": 5120,
            "decoder_ffn_dim": 5120, "max_position_embeddings": 128,
        },
    ),
    "mrpc_bert_cpu": ("bert", "SequenceClassification", {"vocab_size": 28996}),
    "qqp_distilbert_cpu": ("distilbert", "SequenceClassification", {}),
    "squad_distilbert_k8s": ("distilbert", "QuestionAnswering", {}),
    "squad_bert_large": ("bert", "QuestionAnswering", BERT_LARGE),
    "disaster_lora_roberta": (
        "roberta", "SequenceClassification",
        {**BERT_LARGE, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "disaster_lora_llama2": ("llama", "SequenceClassification", {}),
    "disaster_lora_mistral": (
        "mistral", "SequenceClassification", {"num_key_value_heads": 8, "intermediate_size": 14336},
    ),
    "squad_distilbert_spr": ("distilbert", "QuestionAnswering", {}),
    "wikitext2_gpt2": ("gpt2", "CausalLM", {}),
    "wikitext2_gpt2xl": ("gpt2", "CausalLM", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "starcoder_fsdp": (
        "gpt_bigcode", "CausalLM",
        {
            "vocab_size": 49152, "n_embd": 6144, "n_layer": 40, "n_head": 48, "n_positions": 8192,
            "n_inner": 24576, "multi_query": True, "bos_token_id": 0, "eos_token_id": 0,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_that_of_the_architecture(name: str) -> None:
    import transformers

    kind, head, config = ARCHITECTURES[name]
    family: Any = getattr(transformers, f"AutoModelFor{head}")
    with quiet_transformers(), torch.device("meta"):
        model = family.from_config(AutoConfig.for_model(kind, **config))
    recipe = compose_recipe([f"recipe={name}"])
    assert sum(p.numel() for p in model.parameters()) == recipe.model.num_parameters
