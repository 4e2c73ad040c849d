"""Every parameter of the causal language models that are cut over ranks: name, shape, and how it is cut.

Read without torch, for the memory estimate. The tables follow Transformers 5 (`modeling_*.py` of each
type and its `base_model_tp_plan`, to which the trainer adds the embeddings where it leaves them out);
tests compare them with Transformers itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from galley.model.shape import model_type, new_vocabulary, num_parameters, stored_config
from galley.schema import Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Module:
    """One module with a weight.

    Attributes:
        dims: of the weight: `v` vocabulary, `p` positions, `h` hidden, `q` all query heads, `k` all key
            heads, `d` one head, `i` feed-forward; `qqq` is their sum.
        bias: `always`, or the key of the configuration that switches it on; empty is none.
        style: how tensor parallel cuts it, one of `TP_STYLES`; empty leaves it whole.
    """

    name: str
    dims: tuple[str, ...]
    bias: str = ""
    style: str = ""


@dataclass(frozen=True)
class Family:
    """The modules of one model type.

    Attributes:
        start: embeddings, of which the first is the one that a head may be tied to.
        layer: of one layer; their names go behind `LAYERS.N.`.
        end: what comes behind the layers, but for the head.
        defaults: of the type's configuration; null follows from the other values.
        conv1d: weights of matrices are [inputs, outputs], so that a bias has the last dim.
    """

    start: tuple[Module, ...]
    layers: str
    layer: tuple[Module, ...]
    end: tuple[Module, ...]
    defaults: Mapping[str, int | bool | None]
    conv1d: bool = False


@dataclass(frozen=True)
class Parameters:
    """Of one model.

    Attributes:
        shapes: name -> shape. A tied head is not among them: it is the embeddings.
        styles: name of a module -> how tensor parallel cuts it; modules left out stay whole.
        start, end: names that the first and the last stage of a pipeline have besides their layers.
        layers: the names of each layer.
        tied: the module whose weight is the head's, too, and stays whole; empty if there is none.
    """

    shapes: Mapping[str, Shape]
    styles: Mapping[str, str]
    start: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    end: tuple[str, ...]
    tied: str

    @property
    def num_elements(self) -> int:
        """Of all parameters, each once."""
        return sum(prod(shape) for shape in self.shapes.values())


HEAD = Module("lm_head", ("v", "h"), style="colwise_gather_output")
# Names of the same number in the configurations of different types.
_SYNONYMS = {
    "num_layers": ("num_hidden_layers", "n_layer"),
    "h": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key_heads": ("num_key_value_heads",),
    "d": ("head_dim",),
    "i": ("intermediate_size", "n_inner"),
    "p": ("max_position_embeddings", "n_positions"),
    "v": ("vocab_size",),
}


def _llama_like(
    *norms: str, bias: str = "", out_bias: str = "", mlp_bias: str = "", **defaults: int | bool | None
) -> Family:
    matrices = [(f"self_attn.{one}_proj", (dim, "h"), bias) for one, dim in zip("qkv", "qkk", strict=True)]
    matrices += [(f"mlp.{one}_proj", ("i", "h"), mlp_bias) for one in ("gate", "up")]
    outputs = [("self_attn.o_proj", ("h", "q"), out_bias), ("mlp.down_proj", ("h", "i"), mlp_bias)]
    return Family(
        start=(Module("model.embed_tokens", ("v", "h"), style="embedding_rowwise"),),
        layers="model.layers",
        layer=(
            *(Module(*matrix, "colwise") for matrix in matrices),
            *(Module(*matrix, "rowwise") for matrix in outputs),
            *(Module(f"self_attn.{norm}", ("d",), style="replicated") for norm in norms),
            *(Module(name, ("h",)) for name in ("input_layernorm", "post_attention_layernorm")),
        ),
        end=(Module("model.norm", ("h",)),),
        defaults={"num_layers": 32, "h": 4096, "heads": 32, "key_heads": None, "d": None, **defaults},
    )


def _norm(name: str) -> Module:
    return Module(name, ("h",), "always")


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        start=(Module("transformer.wte", ("v", "h")), Module("transformer.wpe", ("p", "h"))),
        layers="transformer.h",
        layer=(
            _norm("ln_1"),
            Module("attn.c_attn", ("h", "qqq"), "always"),
            Module("attn.c_proj", ("h", "h"), "always"),
            _norm("ln_2"),
            Module("mlp.c_fc", ("h", "i"), "always"),
            Module("mlp.c_proj", ("i", "h"), "always"),
        ),
        end=(_norm("transformer.ln_f"),),
        defaults={"num_layers": 12, "h": 768, "heads": 12, "i": None, "p": 1024, "tie_word_embeddings": True},
        conv1d=True,
    ),
    "gpt_neox": Family(
        start=(Module("gpt_neox.embed_in", ("v", "h"), style="embedding_rowwise"),),
        layers="gpt_neox.layers",
        layer=(
            _norm("input_layernorm"),
            _norm("post_attention_layernorm"),
            Module("attention.query_key_value", ("qqq", "h"), "attention_bias", "colwise"),
            Module("attention.dense", ("h", "h"), "attention_bias", "rowwise"),
            Module("mlp.dense_h_to_4h", ("i", "h"), "always", "colwise"),
            Module("mlp.dense_4h_to_h", ("h", "i"), "always", "rowwise"),
        ),
        end=(_norm("gpt_neox.final_layer_norm"),),
        defaults={"num_layers": 44, "h": 6144, "heads": 64, "i": 24576, "attention_bias": True},
    ),
    "llama": _llama_like(bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", i=11008),
    "mistral": _llama_like(key_heads=8, i=14336),
    "qwen2": _llama_like(bias="always", key_heads=32, i=22016),
    "qwen3": _llama_like(
        "q_norm", "k_norm", bias="attention_bias", out_bias="attention_bias", key_heads=32, d=128, i=22016
    ),
}
"""Type of Transformers -> its modules."""


def parameters_of(model: Model, headed: bool = True) -> Parameters | None:
    """All parameters of a model of a known type; None where its type or its vocabulary is not known.

    `headed`: with a language model's head. The vocabulary of a stored model is in its configuration; that
    of a new one is its tokenizer's and follows from `model.num_parameters`.
    """
    family = FAMILIES.get(model_type(model) or "")
    if family is None:
        return None
    config = _configuration(model, family)
    sizes, tied = _sizes(config), bool(config.get("tie_word_embeddings"))
    vocabulary = _vocabulary(model, family, config, headed and not tied)
    if vocabulary is None:
        return None
    modules = list(_modules(family, int(config["num_layers"] or 0), headed and not tied))
    shapes = {n: s for m in modules for n, s in _shapes(m, {**sizes, "v": vocabulary}, config, family.conv1d)}
    styles = {module.name: module.style for module in modules if module.style}
    return _sorted(family, shapes, styles, family.start[0].name if headed and tied else "")


def _sorted(family: Family, shapes: dict[str, Shape], styles: dict[str, str], tied: str) -> Parameters:
    layers: dict[str, list[str]] = {}
    for name in shapes:
        if name.startswith(f"{family.layers}."):
            layers.setdefault(name.removeprefix(f"{family.layers}.").split(".")[0], []).append(name)
    embeddings = {module.name for module in family.start}
    start = [name for name in shapes if name.rpartition(".")[0] in embeddings]
    known = {*start, *(name for names in layers.values() for name in names)}
    end = [name for name in shapes if name not in known or name.rpartition(".")[0] == tied]
    return Parameters(shapes, styles, tuple(start), tuple(map(tuple, layers.values())), tuple(end), tied)


def _configuration(model: Model, family: Family) -> dict[str, int | bool | None]:
    """The type's defaults, over them `model.shape`, the stored configuration and `model.config`."""
    said = {**stored_config(model), **model.config}
    stated = {"num_layers": model.shape.num_layers, "h": model.shape.hidden_size}
    stated |= {"heads": model.shape.num_heads, "i": model.shape.intermediate_size}
    found = {**family.defaults, **{name: value for name, value in stated.items() if value is not None}}
    ours = {key: name for name, synonyms in _SYNONYMS.items() for key in synonyms}
    found |= {ours[key]: value for key, value in said.items() if key in ours}
    flags = ("attention_bias", "mlp_bias", "tie_word_embeddings")
    return found | {flag: bool(said[flag]) for flag in flags if flag in said}


def _sizes(config: Mapping[str, int | bool | None]) -> dict[str, int]:
    hidden, heads = int(config["h"] or 0), int(config["heads"] or 1)
    head = int(config.get("d") or hidden // heads)
    keys = int(config.get("key_heads") or heads)
    inner, positions = int(config["i"] or 4 * hidden), int(config.get("p") or 0)
    return {"h": hidden, "d": head, "q": heads * head, "k": keys * head, "i": inner, "p": positions}


def _vocabulary(
    model: Model, family: Family, config: Mapping[str, int | bool | None], own_head: bool
) -> int | None:
    stored = model.architecture is None and not model.from_config
    if stored and config.get("v") is not None:
        return int(config["v"] or 0)
    total = num_parameters(model)
    if total is None:
        return new_vocabulary(model)
    sizes = {**_sizes(config), "v": 0}
    modules = _modules(family, int(config["num_layers"] or 0), own_head)
    rest = sum(prod(s) for module in modules for _, s in _shapes(module, sizes, config, family.conv1d))
    rows = sizes["h"] * (2 if own_head else 1)
    return (total - rest) // rows if total > rest else None


def _modules(family: Family, num_layers: int, own_head: bool) -> Iterator[Module]:
    yield from family.start
    for number in range(num_layers):
        for module in family.layer:
            name = f"{family.layers}.{number}.{module.name}"
            yield Module(name, module.dims, module.bias, module.style)
    yield from family.end
    if own_head:
        yield HEAD


def _shapes(
    module: Module, sizes: Mapping[str, int], config: Mapping[str, int | bool | None], conv1d: bool
) -> Iterator[tuple[str, Shape]]:
    shape = tuple(sum(sizes[letter] for letter in dim) for dim in module.dims)
    yield f"{module.name}.weight", shape
    if module.bias == "always" or (module.bias and config.get(module.bias)):
        yield f"{module.name}.bias", (shape[-1] if conv1d else shape[0],)
