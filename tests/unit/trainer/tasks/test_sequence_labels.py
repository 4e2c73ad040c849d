"""Numbers, sets of classes, class weights and a teacher: labels, losses and metrics by hand."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from galley.data.check import check_class_sets, load_splits
from galley.data.labels import CLASS_SETS, CLASSES, NUMBERS, Labels
from galley.errors import ConfigError, DataError
from galley.schema import Classification, Data, Distillation, Eval, Model, Precision, Recipe, Task
from trainer.data.sources import count_labels
from trainer.tasks import make_task
from trainer.tasks.multi_label import multi_label_metrics
from trainer.tasks.sequence_classification import balanced_weights
from trainer.warm import preloaded


def folder(root: Path, labels: list[str], name: str = "label") -> str:
    rows = "".join(f'some text {number},"{label}"\n' for number, label in enumerate(labels))
    for split in ("train", "dev"):
        (root / f"{split}.csv").write_text(f"text,{name}\n{rows}")
    return str(root)


@pytest.mark.parametrize(
    ("kind", "values", "expected", "outputs"),
    [
        (NUMBERS, ["1.5", "-2", "3"], [1.5, -2.0, 3.0], 1),
        (CLASS_SETS, ["[0, 2]", "[]", "[1]"], [[0, 2], [], [1]], 3),
        (CLASSES, ["0", "1", "1"], [0, 1, 1], 2),
        (CLASSES, ["0.0", "1", " 1e0"], [0, 1, 1], 2),
    ],
)
def test_labels_are_read_as_the_task_has_them(
    tmp_path: Path, kind: Labels, values: list[str], expected: list[Any], outputs: int
) -> None:
    train = load_splits(Data(path=folder(tmp_path, values)), labels=kind)["train"]
    assert train.labels == expected
    assert count_labels(train.labels) == outputs


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (CLASSES, "2.5", "'2.5' is not a class number (0, 1, …); task=sequence_regression learns numbers"),
        (CLASSES, "", "'' is not a class number (0, 1, …)"),
        (CLASSES, "nan", "'nan' is not a class number (0, 1, …)"),
        (NUMBERS, "good", "'good' is not a number"),
        (NUMBERS, "nan", "'nan' is not a number"),
        (CLASS_SETS, "3", "'3' is not a list of class numbers ([0, 2])"),
        (CLASS_SETS, "[0, 1.5]", "1.5 is not a class number"),
    ],
)
def test_a_label_of_another_kind_is_named_with_its_line(
    tmp_path: Path, kind: Labels, value: str, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_splits(Data(path=folder(tmp_path, [value])), labels=kind)
    assert f"train.csv:2: column 'label': {words}" in str(caught.value)


def test_evaluation_has_no_class_that_training_lacks(tmp_path: Path) -> None:
    path = folder(tmp_path, ["[0]", "[1]"])
    (tmp_path / "dev.csv").write_text('text,label\na,"[0, 4]"\n')
    (problem,) = check_class_sets(Data(path=path))
    assert problem.what.endswith("does not have: 4")
    assert problem.hint == "labels of training: 0, 1"


def test_multi_label_metrics_by_hand() -> None:
    actual = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=bool)
    predicted = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=bool)
    found = multi_label_metrics(predicted, actual)
    # 3 right of 4 predicted and 4 actual; classes: 1, 1 and 0; the second sample is all right
    assert found == pytest.approx({"f1": 3 / 4, "f1_macro": 2 / 3, "accuracy": 1 / 3})
    nothing = np.zeros((2, 3), dtype=bool)
    assert multi_label_metrics(nothing, nothing) == {"f1": 0, "f1_macro": 0, "accuracy": 1}


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Recipe:
    data = Data(max_length=8, cache_dir=str(tmp_path / "cache"))
    return Recipe(model=Model(name=str(tiny_model), ignore_mismatched_head=True), data=data)


def task_on(recipe: Recipe, task: Task, labels: list[str], root: Path) -> Any:
    made = make_task(replace(recipe, task=task, data=replace(recipe.data, path=folder(root, labels))))
    return made, made.datasets(nullcontext)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("sequence_regression", ["0.5", "2", "-1"]), ("multi_label_classification", ["[0]", "[]", "[1, 0]"])],
)
def test_the_loss_is_that_of_transformers(
    recipe: Recipe, tmp_path: Path, kind: str, labels: list[str]
) -> None:
    task, data = task_on(recipe, Task(kind), labels, tmp_path)
    model = task.model().eval()
    batch = task.collate(data.train.rows([0, 1, 2]))
    theirs = model(**batch).loss
    mean = task.loss(model, batch, torch.ones(3)) / task.weight(batch, torch.ones(3))
    assert float(mean) == pytest.approx(float(theirs))
    alone = task.loss(model, task.collate(data.train.rows([2])), torch.ones(1))
    padded = task.loss(model, batch, torch.tensor([0.0, 0, 1]))
    assert float(padded) == pytest.approx(float(alone), abs=1e-5)
    found = task.metrics(task.predict(model, batch).numpy(), data.eval)
    assert all(np.isfinite(value) for value in found.values())


def test_class_weights_are_those_of_torchs_weighted_mean(recipe: Recipe, tmp_path: Path) -> None:
    labels = ["0", "0", "0", "1"]
    assert balanced_weights([0, 0, 0, 1], 2) == [4 / 6, 2.0]
    for weights in ("balanced", [0.25, 3.0]):
        settings = Task(classification=Classification(class_weights=weights))
        task, data = task_on(recipe, settings, labels, tmp_path)
        model = task.model().eval()
        batch = task.collate(data.train.rows([0, 1, 2, 3]))
        mean = task.loss(model, batch, torch.ones(4)) / task.weight(batch, torch.ones(4))
        theirs = cross_entropy(task.predict(model, batch), batch["labels"], weight=task.class_weights)
        assert float(mean) == pytest.approx(float(theirs))
    with pytest.raises(ConfigError, match="has 3 weights, the data 2 classes"):
        task_on(recipe, Task(classification=Classification([1.0, 1.0, 1.0])), labels, tmp_path)


def test_a_teacher_is_frozen_and_its_loss_is_by_the_formula(recipe: Recipe, tmp_path: Path) -> None:
    labels = ["0", "1", "2", "1"]
    teacher, _ = task_on(recipe, Task(), labels, tmp_path)
    saved = teacher.model()
    teacher.save_pretrained(saved, saved.state_dict(), str(tmp_path / "teacher"))
    settings = Distillation(str(tmp_path / "teacher"), temperature=3.0, weight=0.25)
    task, data = task_on(
        replace(recipe, seed=7), Task("distillation", distillation=settings), labels, tmp_path
    )
    model = task.model().eval()
    assert not any(p.requires_grad for p in task.teacher.parameters())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in task.teacher.parameters()}
    batch = task.collate(data.train.rows([0, 1, 2, 3]))
    logits, taught = task.logits(model, batch), task.logits(task.teacher, batch)
    hard = cross_entropy(logits, batch["labels"], reduction="sum")
    measured = task.loss(model, batch, torch.ones(4))
    assert float(measured) == pytest.approx(float(hard))
    task.step = 0
    p, q = (taught / 3).softmax(1), (logits / 3).softmax(1)
    soft = 9 * (p * (p / q).log()).sum()
    trained = task.loss(model, batch, torch.ones(4))
    assert float(trained) == pytest.approx(float(0.75 * hard + 0.25 * soft), rel=1e-5)


def test_a_teacher_without_a_trained_head_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    settings = Distillation("embedded:minilm")
    task, _ = task_on(recipe, Task("distillation", distillation=settings), ["0", "1"], tmp_path)
    with pytest.raises(ConfigError, match="has no trained head"):
        task.model()


def test_only_who_learns_needs_a_teacher(recipe: Recipe, tmp_path: Path) -> None:
    settings = Distillation(str(tmp_path / "gone"))
    measuring = replace(recipe, eval=Eval(only=True))
    task, data = task_on(measuring, Task("distillation", distillation=settings), ["0", "1"], tmp_path)
    assert task.predict(task.model(), task.collate(data.eval.rows([0, 1]))).shape == (2, 2)


def test_a_teacher_that_is_held_warm_computes_as_its_run_does_and_is_the_one_in_the_folder(
    recipe: Recipe, tmp_path: Path
) -> None:
    labels, stored = ["0", "1", "2"], tmp_path / "teacher"
    teacher, _ = task_on(recipe, Task(), labels, tmp_path)
    saved = teacher.model()
    teacher.save_pretrained(saved, saved.state_dict(), str(stored))
    settings = Task("distillation", distillation=Distillation(str(stored), weight=1.0))
    recipe = replace(recipe, seed=7, task=settings, data=replace(recipe.data, path=folder(tmp_path, labels)))
    asked = replace(recipe, precision=Precision("bf16"))

    def loss(task: Any, data: Any, model: torch.nn.Module) -> float:
        task.step = 0
        return float(task.loss(model.eval(), task.collate(data.train.rows([0, 1, 2])), torch.ones(3)))

    cold = make_task(asked)
    expected = loss(cold, cold.datasets(nullcontext), cold.model())
    preloaded.hold(recipe)
    warm = preloaded.take(asked)
    assert warm is not None
    assert loss(warm.task, warm.data, warm.model) == expected
    preloaded.hold(recipe)
    teacher.save_pretrained(saved, saved.state_dict(), str(stored))
    assert preloaded.take(asked) is None
