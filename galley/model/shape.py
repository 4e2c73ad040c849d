"""The shape of a model, read without torch: from its folder, else from what the recipe says of it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from galley.model.adapters import base_of
from galley.schema import Model

# What PEFT gives adapters to where the recipe names nothing: the queries and values of most models.
_PEFT_DEFAULT = frozenset(
    {"query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v",
     "query_key_value", "c_attn"}
)  # fmt: skip
# `all-linear` leaves out what a task puts on top.
_HEADS = frozenset({"classifier", "score", "lm_head", "qa_outputs"})
_ATTENTION_LAYERS = 4  # query, key, value, output
_FEED_FORWARD_LAYERS = 2


@dataclass(frozen=True)
class LayerShape:
    """Of one transformer layer; all layers are alike."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class Embedded:
    """A model that an installed package carries."""

    type: str
    num_parameters: int
    shape: LayerShape
    vocabulary: int


EMBEDDED = {
    "embedded:minilm": Embedded("bert", 22_713_986, LayerShape(6, 384, 12, 1536), 30_522),
    "embedded:deberta_minilm": Embedded("deberta-v2", 24_537_218, LayerShape(6, 384, 12, 1536), 30_522),
    "embedded:smollm2": Embedded("llama", 134_515_008, LayerShape(30, 576, 9, 1536), 49_152),
}
_VOCABULARIES = {"embedded:gpt2_bpe": 50_257} | {name: one.vocabulary for name, one in EMBEDDED.items()}


def num_parameters(model: Model) -> int | None:
    """From the recipe, else from the safetensors headers of a local folder, or of an embedded model.

    None where the values of `model.config` make another model of the stored one.
    """
    if model.num_parameters is not None:
        return model.num_parameters
    if model.config and not is_own_module(model):
        return None
    shapes = _tensor_shapes(model)
    if shapes:
        return sum(prod(shape) for shape in shapes.values())
    embedded = _embedded(model)
    return None if embedded is None else embedded.num_parameters


def is_own_module(model: Model) -> bool:
    """Whether the architecture is a class of the user's (`MODULE:CLASS`), not a type of Transformers."""
    return ":" in (model.architecture or "")


def _embedded(model: Model) -> Embedded | None:
    return EMBEDDED.get(model.name) if model.architecture is None else None


def new_vocabulary(model: Model) -> int | None:
    """Tokens of a new model, which are those of its tokenizer; None for a stored or unknown one."""
    if model.tokenizer == "bpe" and model.architecture is not None:
        return model.bpe.vocabulary
    return None if model.architecture is None else _VOCABULARIES.get(model.tokenizer or "")


def layer_shape(model: Model) -> LayerShape | None:
    """From the recipe, else from the config.json of a local model folder; None where neither tells.

    The values of `model.config` count as the model's own.
    """
    embedded, said = _embedded(model), model.shape
    config = {**(_keys_of(embedded.shape) if embedded else stored_config(model)), **model.config}
    found = {
        "num_layers": said.num_layers or _first(config, "num_hidden_layers", "n_layer", "n_layers"),
        "hidden_size": said.hidden_size or _first(config, "hidden_size", "n_embd", "dim", "d_model"),
        "num_heads": said.num_heads or _first(config, "num_attention_heads", "n_head", "n_heads"),
    }
    if None in found.values():
        return None
    hidden = int(found["hidden_size"] or 0)
    inner = said.intermediate_size or _first(config, "intermediate_size", "n_inner", "hidden_dim", "ffn_dim")
    return LayerShape(
        num_layers=int(found["num_layers"] or 0),
        hidden_size=hidden,
        num_heads=int(found["num_heads"] or 0),
        intermediate_size=inner or 4 * hidden,
    )


def model_type(model: Model) -> str | None:
    """Transformers' name of its kind, such as `llama`; None where only the hub or its code tells."""
    embedded = _embedded(model)
    stored = stored_config(model).get("model_type") if embedded is None else embedded.type
    found = model.architecture or stored
    return None if found is None else str(found)


def num_adapter_parameters(model: Model) -> int | None:
    """Elements of the adapters; None unknown.

    Of LoRA r · (inputs + outputs) of each layer that has one, of DoRA an element for each output besides.
    Counted from the tensors of a local folder; without one, a layer that is named is taken to be a
    square matrix of the hidden size, in every layer of the model.
    """
    rank, targets = model.lora.r, model.lora.target_modules
    if not model.lora.active:
        return 0
    if rank is None:
        return None
    lengths = int(model.lora.method == "dora")
    matrices = {name.removesuffix(".weight"): s for name, s in _tensor_shapes(model).items() if len(s) == 2}
    if matrices:
        adapted = [s for path, s in matrices.items() if _is_target(path, targets)]
        return sum(rank * sum(s) + lengths * s[0] for s in adapted)
    shape = layer_shape(model)
    if shape is None:
        return None
    if targets == ["all-linear"]:
        wide = _FEED_FORWARD_LAYERS * (shape.hidden_size + shape.intermediate_size)
        outputs = _ATTENTION_LAYERS * shape.hidden_size + wide // 2
        return shape.num_layers * (
            rank * (_ATTENTION_LAYERS * 2 * shape.hidden_size + wide) + lengths * outputs
        )
    per_layer = 2 if targets is None else len(targets)
    return shape.num_layers * per_layer * (2 * rank + lengths) * shape.hidden_size


def missing_targets(model: Model) -> list[tuple[str, list[str]]]:
    """(name, names that there are) for each of `lora.target_modules` that a local folder does not have."""
    paths = [f".{name.removesuffix('.weight')}" for name, s in _tensor_shapes(model).items() if len(s) >= 2]
    targets = model.lora.target_modules or []
    if not paths or targets == ["all-linear"]:
        return []
    valid = sorted({path.rpartition(".")[2] for path in paths})
    return [(target, valid) for target in targets if not any(path.endswith(f".{target}") for path in paths)]


def _is_target(path: str, targets: list[str] | None) -> bool:
    if targets == ["all-linear"]:
        return "embed" not in path and path.rpartition(".")[2] not in _HEADS
    if targets is None:
        return path.rpartition(".")[2] in _PEFT_DEFAULT
    return any(f".{path}".endswith(f".{target}") for target in targets)


def _keys_of(shape: LayerShape) -> dict[str, Any]:
    """As in a config.json."""
    return {
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
    }


def _tensor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Of a local folder; a type of Transformers reads no folder."""
    if model.architecture is not None and not is_own_module(model):
        return {}
    files = sorted(Path(base_of(model.name)).expanduser().glob("*.safetensors"))
    return {name: shape for file in files for name, shape in _header(file).items()}


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file: an 8-byte little-endian length, then a JSON header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def stored_config(model: Model) -> dict[str, Any]:
    """The config.json of a local folder; empty for any other model."""
    if model.architecture is not None:
        return {}
    file = Path(base_of(model.name)).expanduser() / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _first(config: dict[str, object], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := config.get(name), int)), None)
