"""Tasks trained on one, two and three ranks: the same gradients, and the same metrics of uneven splits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from tests.integration.tasks import runs
from tests.integration.train import tiny

WORDS = ["river", "mountain", "unbelievable", "blue", "tokenization", "seven", "paper", "naive", "stone"]
NAMES = ["Paris", "Miami", "Denver"]
SIZES = {"train": 36, "dev": 23}  # 23 is divided by no number of ranks, and by no batch size
COMMON = [
    "data.max_length=24", "batch.global_size=12", "model.dropout=0", "eval.every_steps=null",
    "eval.batch_size=5", "checkpoint.every_steps=null", "train.log_every_steps=1", "train.epochs=100",
    "schedule.kind=constant", "schedule.warmup_ratio=null", "optim.weight_decay=0", "optim.grad_clip=null",
]  # fmt: skip
# With so large an eps the first update of Adam is lr · g / (|g| + 1): weights tell each gradient.
ONE_STEP = ["train.max_steps=1", "optim.lr=1", "optim.eps=1", "eval.enabled=true"]


def write(folder: Path, task: str) -> Path:
    draw = random.Random(6)
    for split, size in SIZES.items():
        rows = [_row(task, draw, number) for number in range(size)]
        runs.write_rows(folder / f"{split}.jsonl", rows)
    return folder


def _row(task: str, draw: random.Random, number: int) -> dict[str, object]:
    words = draw.choices(WORDS, k=draw.randint(3, 9))
    if task == "contrastive":
        negative = " ".join([*words[1:], draw.choice(WORDS)])
        return {"anchor": " ".join(words), "positive": " ".join(reversed(words[:-1])), "negative": negative}
    if task == "token_classification":
        tokens = [draw.choice(NAMES) if draw.random() < 0.3 else word for word in words]
        return {"tokens": tokens, "tags": ["B-LOC" if token in NAMES else "O" for token in tokens]}
    labels = {"sequence_regression": number % 7 / 2, "multi_label_classification": [0, 1, 2][: number % 4]}
    return {"text": " ".join([*words, *["good"] * (number % 3)]), "label": labels.get(task, number % 3)}


@pytest.mark.parametrize(
    ("task", "learns"),
    [
        ("contrastive", True),
        ("token_classification", True),
        ("sequence_classification", False),
        ("sequence_regression", False),
        ("multi_label_classification", False),
        ("masked_lm", False),
    ],
)
def test_gradients_and_metrics_do_not_depend_on_the_ranks(tmp_path: Path, task: str, learns: bool) -> None:
    data, model = write(tmp_path / "data", task), runs.tiny_bert(tmp_path / "bert")
    overrides = [f"task={task}", f"data.path={data}", f"model.name={model}", *COMMON]
    found: dict[int, RunFolder] = {}
    for world_size in (1, 2, 3):
        strategy = "strategy=single" if world_size == 1 else "strategy=ddp"
        root = tmp_path / str(world_size)
        found[world_size] = runs.train(root, [*overrides, *ONE_STEP, strategy], world_size)
    alone, metrics = tiny.weights(found[1]), runs.last_metrics(found[1])
    untrained = tiny.load_file(model / "model.safetensors")
    moved = [float((alone[f"bert.{name}" if f"bert.{name}" in alone else name] - old).abs().max())
             for name, old in untrained.items() if "pooler" not in name]  # fmt: skip
    assert max(moved) > 1e-3
    for world_size in (2, 3):
        assert tiny.largest_difference(alone, tiny.weights(found[world_size])) < 1e-5
        measured = runs.last_metrics(found[world_size])
        assert measured["eval/loss"] == pytest.approx(metrics["eval/loss"], rel=1e-5)
        # One sample is 0.04 of a share; the correlation of nearly equal predictions is all rounding.
        assert measured == pytest.approx(metrics, rel=1e-5, abs=1e-3)
    if learns:
        settings = [*overrides, "train.max_steps=10", "optim.lr=1e-2", "strategy=ddp"]
        losses = tiny.losses(runs.train(tmp_path / "longer", settings, 2))
        assert losses[-1] < 0.7 * losses[0]


# From configuration, so that no weights have to be read. Of a vocabulary of characters, for the thousand
# windows that are measured; BLEU is of words.
GPT2 = [
    "model.architecture=gpt2", "model.tokenizer=characters",
    "model.config={n_layer: 1, n_head: 2, n_embd: 8, n_positions: 32}",
]  # fmt: skip
T5 = [
    "model.architecture=t5", "model.tokenizer=embedded:gpt2_bpe",
    "model.config={d_model: 16, num_layers: 1, d_ff: 16, num_heads: 2, d_kv: 8}",
]  # fmt: skip
MIXED_BATCHES = {("single", 1): 64, ("fsdp", 2): 7, ("ddp", 3): 5}


@pytest.mark.parametrize(
    ("settings", "metrics"),
    [
        (
            [*GPT2, "task=causal_lm", "data=pydoc_text", "data.max_samples=1", "data.max_length=32",
             "task.lm.eval_stride=12"],
            {"eval/loss", "eval/perplexity", "eval/accuracy"},
        ),
        (
            [*T5, "task=seq2seq", "data=pydoc_dialogue", "data.max_samples=13", "data.max_length=16",
             "task.seq2seq.max_target_length=8", "task.seq2seq.beams=2", "optim.lr=3e-2"],
            {"eval/loss", "eval/bleu", "eval/chrf"},
        ),
    ],
)  # fmt: skip
def test_texts_are_measured_alike_on_any_ranks_in_any_batches_under_any_strategy(
    tmp_path: Path, settings: list[str], metrics: set[str]
) -> None:
    """Perplexity over sliding windows; BLEU of what all ranks write, partitioned models together."""
    common = [*COMMON, "train.max_steps=2", *settings]
    found = {}
    for (strategy, ranks), batch in MIXED_BATCHES.items():
        words = [*common, f"strategy={strategy}", f"eval.batch_size={batch}"]
        measured = runs.last_metrics(runs.train(tmp_path / strategy, words, ranks))
        assert metrics <= measured.keys()
        found[strategy] = {name: measured[name] for name in metrics}
    assert found["fsdp"] == pytest.approx(found["single"], rel=1e-5)
    assert found["ddp"] == pytest.approx(found["single"], rel=1e-5)
