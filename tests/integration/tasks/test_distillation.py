"""A teacher on several ranks: everyone's is the stored one, and the student learns as on one rank."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from galley.config.compose import compose_recipe
from tests.integration.tasks import runs
from tests.integration.train import tiny
from trainer.tasks import make_task

TEMPERATURE, WEIGHT = 2.5, 0.7
# Twelve rows are one batch, so that the first loss is the same in any order; classes of different sizes.
LABELS = [0, 1, 1, 2, 1, 0, 1, 2, 1, 1, 0, 1]
# New from its configuration, which the teacher must not be.
STUDENT = [
    "model.architecture=bert",
    "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}",
    "model.tokenizer=embedded:minilm",
]
SETTINGS = [
    "task=distillation", f"task.distillation.temperature={TEMPERATURE}",
    f"task.distillation.weight={WEIGHT}", "task.classification.class_weights=balanced", *STUDENT,
    "model.dropout=0", "data.max_length=16", "batch.global_size=12", "train.max_steps=6", "train.epochs=6",
    "train.log_every_steps=1", "eval.every_steps=null", "checkpoint.every_steps=null", "optim.lr=2e-2",
    "schedule.warmup_ratio=null",
]  # fmt: skip


def store_teacher(folder: Path) -> Path:
    """A classifier of another shape than the student, with strong opinions."""
    from transformers import BertConfig, BertForSequenceClassification

    runs.tiny_bert(folder)  # for its tokenizer
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
    torch.manual_seed(11)
    teacher = BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=3, **sizes))
    torch.nn.init.normal_(teacher.classifier.weight, std=2.0)
    teacher.save_pretrained(folder)
    return folder


def first_loss(words: list[str], teacher: Path) -> float:
    """By the formula, of the student that the seed draws and the teacher that is stored."""
    from transformers import AutoModelForSequenceClassification

    task: Any = make_task(compose_recipe([*words, "strategy=single"]))
    data, student = task.datasets(nullcontext), task.model().eval()
    stored = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    batch = task.collate(data.train.rows(range(len(LABELS))))
    with torch.no_grad():
        logits, taught = task.logits(student, batch), task.logits(stored, batch)
    p, q = (taught / TEMPERATURE).softmax(1), (logits / TEMPERATURE).softmax(1)
    soft = TEMPERATURE**2 * (p * (p / q).log()).sum(1)
    counts = torch.tensor(LABELS).bincount()
    weights = (len(LABELS) / (3 * counts))[batch["labels"]]
    mixed = (1 - WEIGHT) * cross_entropy(logits, batch["labels"], reduction="none") + WEIGHT * soft
    return float((mixed * weights).sum() / weights.sum())


def test_a_student_learns_alike_on_any_ranks_from_the_teacher_that_is_stored(tmp_path: Path) -> None:
    """Also where the second rank reads no weights of the student's."""
    teacher = store_teacher(tmp_path / "teacher")
    for split in ("train", "dev"):
        rows = [{"text": f"{'river ' * n} stone {n}", "label": label} for n, label in enumerate(LABELS)]
        runs.write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    words = [f"data.path={tmp_path / 'data'}", f"task.distillation.teacher={teacher}", *SETTINGS]
    alone = runs.train(tmp_path / "single", [*words, "strategy=single"])
    cache = f"data.cache_dir='{tmp_path / 'cache'}'"
    assert tiny.losses(alone)[0] == pytest.approx(first_loss([cache, "precision=fp32", *words], teacher))
    assert tiny.losses(alone)[-1] < 0.9 * tiny.losses(alone)[0]
    efficient = "strategy.cpu_ram_efficient_loading=true"
    for strategy in (["strategy=ddp"], ["strategy=fsdp", efficient]):
        folder = runs.train(tmp_path / strategy[0], [*words, *strategy], 2)
        assert tiny.losses(folder) == pytest.approx(tiny.losses(alone), abs=1e-5)
        assert tiny.largest_difference(tiny.weights(folder), tiny.weights(alone)) < 1e-5
        assert runs.last_metrics(folder) == pytest.approx(runs.last_metrics(alone), abs=1e-5)
