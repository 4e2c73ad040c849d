"""The task: its loss and metrics against hand-made numbers, its batches, what it saves."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from galley.registry import TASKS
from galley.schema import Data, Eval, Model, Recipe
from trainer.tasks import make_task
from trainer.tasks.base import Task
from trainer.tasks.sequence_classification import SequenceClassification, classification_metrics


def one_hot(predicted: list[int], num_labels: int) -> Any:
    return np.eye(num_labels, dtype=np.float32)[predicted] * 5.0


def test_binary_metrics_by_hand() -> None:
    # TP 3, FP 1, FN 2, TN 2
    labels = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    found = classification_metrics(one_hot([1, 1, 1, 0, 0, 1, 0, 0], 2), labels, 2)
    assert set(found) == {"loss", "accuracy", "f1"}
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2), abs=1e-12)


def test_metrics_of_three_classes_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    found = classification_metrics(one_hot([0, 1, 1, 1, 2, 0], 3), labels, 3)
    # F1: class 0: 1 TP 1 FP 1 FN, class 1: 2 TP 1 FP, class 2: 1 TP 1 FN
    assert found["f1_macro"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3, abs=1e-12)
    assert found["f1"] == found["f1_macro"]
    assert found["accuracy"] == 4 / 6


def test_f1_is_zero_where_the_class_is_neither_there_nor_predicted() -> None:
    labels = np.array([0, 0])
    assert classification_metrics(one_hot([0, 0], 2), labels, 2)["f1"] == 0.0
    assert classification_metrics(one_hot([0, 0], 3), labels, 3)["f1_macro"] == pytest.approx(1 / 3)


@given(st.integers(2, 5), st.data())
def test_metrics_agree_with_precision_and_recall(num_labels: int, data: Any) -> None:
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, num_labels - 1)] * 2), min_size=1, max_size=60))
    predicted, labels = [p for p, _ in pairs], [n for _, n in pairs]
    found = classification_metrics(one_hot(predicted, num_labels), np.array(labels), num_labels)
    scores = []
    for label in range(num_labels):
        hits = sum(p == n == label for p, n in pairs)
        precision = hits / predicted.count(label) if label in predicted else 0.0
        recall = hits / labels.count(label) if label in labels else 0.0
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert found["f1"] == pytest.approx(scores[1] if num_labels == 2 else sum(scores) / num_labels)
    assert found["accuracy"] == pytest.approx(sum(p == n for p, n in pairs) / len(pairs))


def test_the_loss_metric_is_torchs_mean_cross_entropy_even_for_huge_logits() -> None:
    logits = np.array([[1.0, 2.0, 0.5], [1e4, -1e4, 0.0], [0.0, 0.0, 3.0]], dtype=np.float32)
    labels = np.array([1, 0, 0])
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert classification_metrics(logits, labels, 3)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Recipe:
    body = "text,label\n" + "".join(f"{'word ' * (n + 1)},{n % 3}\n" for n in range(9))
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(body)
    data = Data(path=str(tmp_path), max_length=8, cache_dir=str(tmp_path / "cache"))
    return Recipe(model=Model(name=str(tiny_model)), data=data)


@pytest.fixture
def task(recipe: Recipe) -> SequenceClassification:
    made = make_task(recipe)
    assert isinstance(made, SequenceClassification)
    return made


@pytest.mark.parametrize("kind", TASKS.built_in)
def test_every_registered_task_has_a_torch_half(recipe: Recipe, kind: str) -> None:
    assert isinstance(make_task(replace(recipe, task=replace(recipe.task, kind=kind))), Task)


def test_batches_are_padded_to_their_longest_sample(task: SequenceClassification) -> None:
    train = task.datasets(nullcontext).train
    batch = task.collate(train.rows([0, 2]))
    assert train.lengths[[0, 2]].tolist() == [3, 5]
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 5),
        "token_type_ids": (2, 5),
        "attention_mask": (2, 5),
        "labels": (2,),
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["input_ids"][0, 3:].tolist() == [task.tokenizer.pad_token_id] * 2
    assert batch["labels"].tolist() == [0, 2]


def test_the_loss_is_the_sum_over_the_samples_that_count(task: SequenceClassification) -> None:
    train = task.datasets(nullcontext).train
    model = task.model().eval()
    weights = torch.tensor([1.0, 0.0, 1.0])
    batch = task.collate(train.rows([1, 5, 8]))
    alone = [task.loss(model, task.collate(train.rows([n])), torch.ones(1)) for n in (1, 8)]
    assert torch.allclose(task.loss(model, batch, weights), torch.stack(alone).sum(), atol=1e-5)
    assert task.weight(batch, weights) == 2


def test_the_loss_is_fp32_under_autocast(task: SequenceClassification) -> None:
    train = task.datasets(nullcontext).train
    model = task.model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = task.loss(model, task.collate(train.rows([0])), torch.ones(1))
    assert loss.dtype == torch.float32
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())


def test_predictions_and_metrics_fit_together(task: SequenceClassification) -> None:
    datasets = task.datasets(nullcontext)
    assert datasets.eval is not None
    model = task.model().eval()
    logits = task.predict(model, task.collate(datasets.eval.rows(range(9))))
    assert not logits.requires_grad
    found = task.metrics(logits.numpy(), datasets.eval)
    expected = (logits.argmax(1) == torch.tensor([n % 3 for n in range(9)])).float().mean()
    assert found["accuracy"] == pytest.approx(float(expected))


def test_data_is_prepared_inside_main_first(task: SequenceClassification, tmp_path: Path) -> None:
    from collections.abc import Iterator
    from contextlib import contextmanager

    seen: list[bool] = []

    @contextmanager
    def main_first() -> Iterator[None]:
        seen.append((tmp_path / "cache" / "tokenized").exists())
        yield
        seen.append(len(list((tmp_path / "cache" / "tokenized").iterdir())) == 1)

    task.datasets(main_first)
    assert seen == [False, True], "both splits have the same content: one file"


def test_no_evaluation_no_second_dataset(recipe: Recipe) -> None:

    assert make_task(replace(recipe, eval=Eval(enabled=False))).datasets(nullcontext).eval is None


def test_what_is_saved_is_loaded_by_transformers_with_the_same_predictions(
    task: SequenceClassification, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    train = task.datasets(nullcontext).train
    model = task.model().eval()
    state = {name: tensor + 0.01 for name, tensor in model.state_dict().items()}
    capfd.readouterr()
    task.save_pretrained(model, state, str(tmp_path / "saved"))
    assert "shards" not in capfd.readouterr().err
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    model.load_state_dict(state)
    batch = task.collate(train.rows([4]))
    assert torch.equal(task.predict(loaded, batch), task.predict(model, batch))
    text = AutoTokenizer.from_pretrained(tmp_path / "saved")("word " * 5, truncation=True, max_length=8)
    assert text["input_ids"] == batch["input_ids"][0].tolist()


def test_models_without_segments_are_not_given_any(tmp_path: Path, recipe: Recipe) -> None:

    from transformers import DistilBertConfig, DistilBertForSequenceClassification, DistilBertTokenizer

    from trainer.assets import minilm

    folder = tmp_path / "distilbert"
    config = DistilBertConfig(vocab_size=30522, dim=16, n_layers=1, n_heads=2, hidden_dim=16, num_labels=3)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    DistilBertTokenizer.from_pretrained(minilm.folder()).save_pretrained(folder)
    task = make_task(replace(recipe, model=Model(name=str(folder))))
    train = task.datasets(nullcontext).train
    assert torch.isfinite(task.loss(task.model(), task.collate(train.rows([0, 1])), torch.ones(2)))
