"""MiniLM's weights as a DeBERTa-v2: the same function, in another architecture.

DeBERTa's disentangled attention adds content-to-position and position-to-content terms and divides
the scores by sqrt(d · (1 + number of terms)), BERT's by sqrt(d) (He et al., arXiv:2006.03654,
eq. 4). With relative embeddings and positional biases of zero the terms vanish, and queries
multiplied by sqrt(3) undo the other divisor. The positional projections are drawn at random, so
that the relative embeddings can learn.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.assets import minilm
from trainer.assets.folder import made_once

if TYPE_CHECKING:
    import torch

VERSION = 2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
SEED = 0
INIT_STD = 0.02
CONFIG: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "type_vocab_size": 2,
    "position_biased_input": True,
    "layer_norm_eps": 1e-12,
    "share_att_key": False,
    "pos_att_type": ["c2p", "p2c"],
    "relative_attention": True,
    "position_buckets": 64,
    "norm_rel_ebd": "none",
}
QUERY_SCALE = math.sqrt(3.0)

# BERT's name -> DeBERTa's name, inside a layer.
LAYER_NAMES = {
    "attention.self.query": "attention.self.query_proj",
    "attention.self.key": "attention.self.key_proj",
    "attention.self.value": "attention.self.value_proj",
    "attention.output.dense": "attention.output.dense",
    "attention.output.LayerNorm": "attention.output.LayerNorm",
    "intermediate.dense": "intermediate.dense",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}


def folder(cache: Path) -> Path:
    """Return the converted model in `cache`, made on first use. Safe if several processes ask at once."""
    source = minilm.folder("deberta_minilm")
    key = hashlib.sha256(f"{VERSION} {minilm.weights_digest()}".encode()).hexdigest()[:16]
    return made_once(cache / "assets" / f"deberta_minilm-{key}", lambda partial: _write(source, partial))


def _write(source: Path, target: Path) -> None:
    """Write the converted model and the tokenizer."""
    from safetensors.torch import load_file, save_file
    from transformers import DebertaV2Config

    config = DebertaV2Config(**CONFIG, architectures=["DebertaV2Model"])
    save_file(convert(load_file(source / minilm.WEIGHTS)), target / minilm.WEIGHTS, {"format": "pt"})
    config.save_pretrained(target)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def convert(bert: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return DeBERTa's state dict from BERT's, with positional parts that have no effect but can learn."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in bert.items():
        name = name.removeprefix("bert.")
        if name.startswith("embeddings.") and not name.endswith("position_ids"):
            state[name] = tensor.float()
        elif name.startswith("encoder.layer."):
            target = _layer_name(name)
            state[target] = tensor.float() * (QUERY_SCALE if ".query_proj." in target else 1.0)
    return state | _positional_parts()


def _positional_parts() -> dict[str, torch.Tensor]:
    """Return relative embeddings of zero, and random projections of them."""
    import torch

    width, generator = CONFIG["hidden_size"], torch.Generator().manual_seed(SEED)
    state = {"encoder.rel_embeddings.weight": torch.zeros(2 * CONFIG["position_buckets"], width)}
    for layer in range(CONFIG["num_hidden_layers"]):
        for name in ("pos_key_proj", "pos_query_proj"):
            prefix = f"encoder.layer.{layer}.attention.self.{name}"
            state[f"{prefix}.weight"] = torch.empty(width, width).normal_(0, INIT_STD, generator=generator)
            state[f"{prefix}.bias"] = torch.zeros(width)
    return state


def _layer_name(name: str) -> str:
    encoder, layer, number, inner = name.split(".", 3)
    module, _, kind = inner.rpartition(".")
    return ".".join((encoder, layer, number, LAYER_NAMES[module], kind))
