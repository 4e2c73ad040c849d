"""What a step holds besides the model's state: activations of the layers, and logits of a language model."""

from __future__ import annotations

from collections.abc import Mapping

from galley.model.causal_lm import parameters_of
from galley.model.shape import EMBEDDED, LayerShape, is_own_module, model_type, new_vocabulary, stored_config
from galley.schema import Model, Recipe, Strategy
from galley.spec import Layout
from galley.strategy.parallel_dims import layer_spans
from galley.tasks import task_of

FP32 = 4
# Transformers 5 calls torch's SDPA for these types by itself. Type -> its default dropout of the scores.
SDPA_DROPOUT: Mapping[str, float] = {
    "bert": 0.1, "roberta": 0.1, "xlm-roberta": 0.1, "camembert": 0.1, "distilbert": 0.1, "electra": 0.1,
    "gpt2": 0.1, "gpt_bigcode": 0.1, "albert": 0.0, "bart": 0.0, "blenderbot": 0.0, "gemma": 0.0,
    "gpt_neox": 0.0, "llama": 0.0, "mistral": 0.0, "mixtral": 0.0, "phi3": 0.0, "qwen2": 0.0, "qwen3": 0.0,
}  # fmt: skip
_DROPOUT_KEYS = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")


def activation_bytes(recipe: Recipe, layout: Layout, shape: LayerShape, weights: int, rank: int = 0) -> float:
    """What the layers of a rank of the pipeline keep for the backward, at the longest batch.

    In 16 bits a layer keeps s·b·h·34 bytes and its attention scores, and 2·s·b·h where it is computed again
    (Korthikanti et al. 2022, arXiv:2205.05198, equation 2 and section 5). Of the 34, 2 are masks, which CPUs
    keep in the compute format, and the rest is twice as large in fp32; 16 are the inner layer's, which has
    4·h there. Autocast adds 8: the two norms read fp32, and the input of queries, keys and values is cast
    three times. Tensor parallel ranks share 24 of the 34, and the scores (section 4.2.1). Autocast keeps a
    16-bit copy of the `weights` that the rank holds besides, but of those that FSDP gathers, which are in
    16 bits already and freed.
    """
    s, b, h = recipe.data.max_length, layout.micro_size, shape.hidden_size
    wide = _wide(layout)
    inner = 16 * shape.intermediate_size / (4 * h)
    masks = 2 * 2 * wide if layout.device == "cpu" else 2
    strategy, t = recipe.strategy, recipe.strategy.tensor_parallel
    layer = s * b * h * (wide * (16 + inner) + masks + (8 if wide == 1 else 0)) * (10 + 24 / t) / 34
    layer += shape.num_heads * s * s * b * bytes_per_score(recipe.model, layout) / t
    kept = 2 * wide * s * b * h if recipe.train.gradient_checkpointing else layer
    again = layer if recipe.train.gradient_checkpointing else 0.0
    copies = 2 * weights if wide == 1 and strategy.engine != "fsdp" else 0
    layers = layers_of_rank(strategy, shape.num_layers, rank)
    return layers * under_way(strategy, layout.accumulation, rank) * kept + again + copies


def bytes_per_score(model: Model, layout: Layout) -> int:
    """What a layer keeps for each attention score of each head: nothing where a fused kernel computes them.

    Eager attention keeps the softmax, its dropout's mask and the result: 5 bytes in 16 bits (of which the
    mask is 1; arXiv:2205.05198, section 4.1), on CPUs 6. Torch's SDPA has no fused kernel for dropout on
    CPUs and keeps all three in fp32. A type that is not known is taken to be eager.
    """
    chosen, wide = model.attn_implementation, _wide(layout)
    if chosen is None:
        chosen = "sdpa" if model_type(model) in SDPA_DROPOUT else "eager"
    if chosen == "sdpa" and layout.device == "cpu" and _has_score_dropout(model):
        return 12
    if chosen != "eager":
        return 0
    return 6 * wide if layout.device == "cpu" else 4 * wide + 1


def _has_score_dropout(model: Model) -> bool:
    """Also where nothing tells."""
    if model.dropout is not None:
        return model.dropout > 0
    said = {**stored_config(model), **model.config}
    found = next((said[key] for key in _DROPOUT_KEYS if said.get(key) is not None), None)
    return bool(SDPA_DROPOUT.get(model_type(model) or "", 1.0) if found is None else found)


def logits_bytes(recipe: Recipe, layout: Layout, rank: int = 0) -> float | None:
    """The logits of a micro-batch, and what their loss holds beside them, on a rank of the pipeline.

    At the peak, in the backward, there are three tensors of [tokens, words] in fp32 in every precision: the
    loss keeps the log-softmax, and its gradient and that of the logits are made. A pipeline keeps the logits
    themselves besides, and with gpipe they and the log-softmax of all micro-batches. Tensor parallel divides
    nothing: a head that is cut gathers its output on every rank. 0 for a task without a vocabulary and for a
    rank without the head; None where the vocabulary is not known.
    """
    strategy, task = recipe.strategy, task_of(recipe)
    if task.answered_tokens is None or rank != strategy.pipeline_parallel - 1:
        return 0.0
    words = vocabulary(recipe.model)
    if words is None:
        return None
    kept, made = FP32 + 0.0, 2.0 * FP32
    if task.extra_logit_bytes is not None:
        made += task.extra_logit_bytes(recipe)
    if strategy.pipeline_parallel > 1:
        kept += 2 * _wide(layout)
    chunks = layout.accumulation if strategy.pipeline_parallel > 1 and strategy.schedule == "gpipe" else 1
    return layout.micro_size * task.answered_tokens(recipe) * words * (chunks * kept + made)


def vocabulary(model: Model) -> int | None:
    """Words that a language model tells apart: as `model.shape` says, else of its configuration or of its
    new tokenizer; None where none tells."""
    if model.shape.vocabulary is not None or is_own_module(model):
        return model.shape.vocabulary
    if model.architecture is None and model.name in EMBEDDED:
        return EMBEDDED[model.name].vocabulary
    said = {**stored_config(model), **model.config} if model.architecture is None else {}
    if said.get("vocab_size") is not None:
        return int(said["vocab_size"])
    return new_vocabulary(model) or _counted_words(model)


def _counted_words(model: Model) -> int | None:
    """From `model.num_parameters`: the rows of the embeddings that are left, if they are whole rows."""
    found = parameters_of(model)
    if found is None or found.num_elements != model.num_parameters:
        return None
    return found.shapes[found.start[0]][0]


def layers_of_rank(strategy: Strategy, num_layers: int, rank: int) -> int:
    """Of all stages on a rank of the pipeline."""
    spans = layer_spans(num_layers, strategy.num_stages)
    return sum(len(span) for span in spans[rank :: strategy.pipeline_parallel])


def under_way(strategy: Strategy, chunks: int, rank: int) -> float:
    """Micro-batches of which a rank of the pipeline keeps activations at once.

    gpipe keeps all. Under 1f1b a rank is as many forwards ahead as there are ranks behind it; interleaved,
    with v stages a rank of p, the first is at p·(1 + (p - 1) ÷ (p·v)) (arXiv:2205.05198, section 4.3).
    """
    ranks, each = strategy.pipeline_parallel, strategy.num_stages // strategy.pipeline_parallel
    if strategy.schedule == "gpipe" and ranks > 1:
        return chunks
    if each == 1:
        return min(ranks - rank, chunks)
    return min((2 * (ranks - rank - 1) + (each - 1) * ranks + 1) / each, chunks)


def _wide(layout: Layout) -> int:
    """Of an element of the compute format, in 16 bits."""
    return 1 if layout.precision != "fp32" else 2
