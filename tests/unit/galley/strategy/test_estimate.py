"""The memory estimate against the published figures."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from galley.model.shape import LayerShape
from galley.schema import (
    Batch,
    Cluster,
    Data,
    Distillation,
    Lora,
    Model,
    Precision,
    Recipe,
    Seq2Seq,
    Shape,
    Strategy,
    Task,
    Train,
)
from galley.schema.task import MaskedDistillation
from galley.spec import ClusterFacts
from galley.strategy.activation_memory import activation_bytes, bytes_per_score, logits_bytes, vocabulary
from galley.strategy.estimate import GIB, estimate_memory, memory_warnings, num_parameters
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU, GPU

BILLION = Recipe(
    model=Model(num_parameters=10**9), batch=Batch(global_size=4), cluster=Cluster(procs_per_node=4)
)


def bytes_per_parameter(shard: str, compute: str, engine: str = "deepspeed") -> float:
    strategy = Strategy(engine=engine, shard=shard)  # type: ignore[arg-type]  # from the table below
    recipe = replace(BILLION, strategy=strategy, precision=Precision(compute=compute))  # type: ignore[arg-type]
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    return estimate.total_gib * GIB / 10**9


@pytest.mark.parametrize(
    ("shard", "compute", "expected"),
    [
        ("none", "bf16", 16),
        ("optimizer", "fp32", 4 + 4 + 8 / 4),
        ("grads", "bf16", 4 + 4 / 4 + 8 / 4),
        ("params", "fp32", 16 / 4),
    ],
)
def test_bytes_a_parameter_follow_the_zero_paper(shard: str, compute: str, expected: float) -> None:
    assert bytes_per_parameter(shard, compute) == pytest.approx(expected)


def test_a_hybrid_group_holds_a_copy_of_its_own() -> None:
    strategy = Strategy(engine="fsdp", shard="params", hybrid=True, hybrid_shard_size=2)
    recipe = replace(BILLION, strategy=strategy)
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    assert estimate.total_gib * GIB == pytest.approx(16e9 / 2)


def test_what_is_frozen_has_no_gradient_and_no_moments() -> None:
    shape = Shape(num_layers=10, hidden_size=1000, num_heads=10)
    model = Model(num_parameters=10**9, shape=shape, lora=Lora(r=8, target_modules=["query", "value"]))
    recipe = replace(BILLION, model=model, strategy=Strategy(engine="deepspeed", shard="grads"))
    estimate = estimate_memory(recipe, resolve_layout(recipe, CPU))
    assert estimate is not None
    assert estimate.num_trainable == 8 * 2 * 1000 * 2 * 10
    assert estimate.params_gib * GIB == pytest.approx(4 * (10**9 + estimate.num_trainable))
    assert estimate.grads_gib * GIB == pytest.approx(4 * estimate.num_trainable / 4)
    assert estimate.optimizer_gib == pytest.approx(2 * estimate.grads_gib)
    unknown = replace(recipe, model=replace(model, name="some/model", shape=Shape()))
    assert estimate_memory(unknown, resolve_layout(unknown, CPU)) is None


def test_what_is_offloaded_moves_to_the_host_where_there_is_another_memory() -> None:
    strategy = Strategy(engine="deepspeed", shard="grads", offload_optimizer="cpu")
    recipe = replace(BILLION, strategy=strategy, cluster=Cluster(procs_per_node=2))
    on_cpu = estimate_memory(recipe, resolve_layout(recipe, CPU))
    on_gpu = estimate_memory(recipe, resolve_layout(recipe, GPU))
    assert on_cpu is not None
    assert on_gpu is not None
    assert (on_cpu.host_gib, on_gpu.host_gib) == (0.0, on_cpu.grads_gib + on_cpu.optimizer_gib)
    assert on_gpu.total_gib == on_cpu.params_gib


def test_activations_fit_or_a_way_to_make_them_is_named() -> None:
    shape = Shape(num_layers=48, hidden_size=1600, num_heads=25)
    recipe = replace(BILLION, model=Model(num_parameters=10**8, shape=shape), data=Data(max_length=1024))
    layout = resolve_layout(recipe, CPU)
    (warning,) = memory_warnings(estimate_memory(recipe, layout), layout, CPU)
    assert "with activations" in warning
    assert "train.gradient_checkpointing=true" in warning
    less = replace(recipe, train=Train(gradient_checkpointing=True))
    assert memory_warnings(estimate_memory(less, layout), layout, CPU) == []


def test_parameters_are_counted_from_a_local_folder(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "__metadata__": {"format": "pt"},
    }
    body = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body + bytes(48))
    assert num_parameters(Recipe(model=Model(name=str(tmp_path)))) == 12


def test_unknown_size_is_said_not_guessed() -> None:
    recipe = replace(BILLION, model=Model(name="some/model"))
    layout = resolve_layout(recipe, CPU)
    assert estimate_memory(recipe, layout) is None
    assert "model.num_parameters" in memory_warnings(None, layout, CPU)[0]


def test_what_cannot_fit_is_warned_about() -> None:
    layout = resolve_layout(BILLION, CPU)
    (warning,) = memory_warnings(estimate_memory(BILLION, layout), layout, CPU)
    assert "14.9 GiB a rank before activations, but there are 4.0 GiB a rank" in warning


WORDS = 131_072
EVERYWHERE = Distillation(masked=MaskedDistillation(soft_positions="all"))
FOUR_STAGES = Strategy("pp", pipeline_parallel=4)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy(), 12),  # log-softmax and two gradients, each in fp32
        (Strategy("deepspeed", shard="params"), 12),
        (Strategy("tp", tensor_parallel=2), 12),  # the output of the head is gathered
        (FOUR_STAGES, 12 + 2),  # and the logits, which the last stage keeps
        (replace(FOUR_STAGES, schedule="gpipe"), 4 * (4 + 2) + 8),
    ],
)
def test_logits_of_128_thousand_words(strategy: Strategy, expected: int) -> None:
    """8192 tokens in bf16: 12 GiB."""
    shape = Shape(4, 1024, 16, vocabulary=WORDS)
    model = Model(num_parameters=10**9, shape=shape, attn_implementation="flash_attention_2")
    recipe = replace(
        BILLION,
        model=model,
        task=Task("causal_lm"),
        data=Data(max_length=8192),
        batch=Batch(micro_size=1, accumulation=4),
        strategy=strategy,
        precision=Precision(compute="bf16"),
    )
    layout = resolve_layout(recipe, CPU)
    last = strategy.pipeline_parallel - 1
    assert logits_bytes(recipe, layout, last) == 8192 * WORDS * expected
    assert last == 0 or logits_bytes(recipe, layout, 0) == 0
    estimate = estimate_memory(recipe, layout)
    assert estimate is not None
    assert estimate.logits_gib == expected
    assert estimate.peak_gib == pytest.approx(estimate.total_gib + (estimate.activations_gib or 0) + expected)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task("masked_lm"), 256 * 12),
        (Task("seq2seq", seq2seq=Seq2Seq(max_target_length=64)), 64 * 12),
        (Task("masked_lm_distillation"), 256 * (12 + 4 + 12 * 0.15)),
        (Task("masked_lm_distillation", distillation=EVERYWHERE), 256 * (12 + 4 + 12)),
        (Task("sequence_classification"), 0),
    ],
)
def test_only_heads_over_the_vocabulary_have_logits(task: Task, words: float) -> None:
    """MiniLM's vocabulary of 30 522 word pieces."""
    recipe = Recipe(task=task, data=Data(max_length=256), batch=Batch(micro_size=2))
    assert logits_bytes(recipe, resolve_layout(recipe, CPU)) == pytest.approx(2 * words * 30_522)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(), 30_522),
        (Model(architecture="gpt2", tokenizer="embedded:gpt2_bpe"), 50_257),
        (Model(architecture="gpt2", tokenizer="bpe"), 32_768),
        (Model(name="somebody/unknown"), None),
        (Model(name="somebody/unknown", config={"vocab_size": 99}), 99),
        (Model(architecture="gpt2", tokenizer="some/where", num_parameters=124_439_808), 50_257),
        (Model(architecture="gpt2", tokenizer="some/where", num_parameters=124_439_809), None),
        (Model(architecture="plug:In", tokenizer="characters"), None),
    ],
)
def test_the_vocabulary_is_known_or_not(model: Model, words: int | None) -> None:
    assert vocabulary(model) == words


ONE = ClusterFacts("h", 1, 80.0, 8, 100.0, bf16=True, declared=True)


def activations(recipe: Recipe) -> float:
    return activation_bytes(recipe, resolve_layout(recipe, ONE), LayerShape(96, 12288, 96, 4 * 12288), 0)


def test_scores_are_the_share_of_gpt3_that_is_published() -> None:
    """Korthikanti et al. 2022, section 5: recomputing the scores saves 70 % of GPT-3's activations."""
    fused = Recipe(
        model=Model(attn_implementation="flash_attention_2"),
        data=Data(max_length=2048),
        batch=Batch(micro_size=1),
        precision=Precision(compute="bf16"),
    )
    eager = replace(fused, model=Model(attn_implementation="eager"))
    scores = activations(eager) - activations(fused)
    assert scores == 96 * 5 * 96 * 2048**2
    assert scores / (scores + 96 * 34 * 2048 * 12288) == pytest.approx(0.70, abs=0.005)
    assert activations(fused) == 96 * (34 + 8) * 2048 * 12288  # 8 of autocast


@pytest.mark.parametrize(
    ("model", "on_gpus", "on_cpus"),
    [
        (Model(), 0, 12),  # BERT has dropout, for which CPUs have no fused kernel
        (Model(dropout=0.0), 0, 0),
        (Model(config={"attention_probs_dropout_prob": 0.0}), 0, 0),
        (Model(architecture="llama", tokenizer="characters"), 0, 0),
        (Model(attn_implementation="eager"), 9, 12),
        (Model(name="embedded:deberta_minilm"), 9, 12),  # has eager attention only
        (Model(name="somebody/unknown"), 9, 12),
        (Model(name="somebody/unknown", attn_implementation="sdpa"), 0, 12),
        (Model(attn_implementation="flash_attention_2"), 0, 0),
    ],
)
def test_bytes_of_a_score_follow_the_attention(model: Model, on_gpus: int, on_cpus: int) -> None:
    for facts, expected in ((ONE, on_gpus), (CPU, on_cpus)):
        assert bytes_per_score(model, resolve_layout(Recipe(model=model), facts)) == expected
