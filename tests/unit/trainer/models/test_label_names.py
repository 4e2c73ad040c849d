"""Names of classes and tags in the model that is saved, and those of a stored model or a teacher."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Data, Distillation, Model, Recipe, Task
from trainer.data.tokenize.tagged import read_tag_tables
from trainer.tasks import make_task

ROWS = [("a fine day", "positive"), ("a bad day", "negative"), ("a day", "positive")]


def labeled(folder: Path, rows: list[tuple[str, Any]] = ROWS) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return str(folder)


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Recipe:
    data = Data(path=labeled(tmp_path / "data"), max_length=8, cache_dir=str(tmp_path / "cache"))
    return Recipe(model=Model(name=str(tiny_model), ignore_mismatched_head=True), data=data, batch=Batch(2))


def prepared(recipe: Recipe) -> tuple[Any, list[int]]:
    """The task, and the numbers of the training labels."""
    task: Any = make_task(recipe)
    data = task.datasets(nullcontext)
    return task, [int(row["label"]) for row in data.train.rows(range(len(data.train)))]


def saved(recipe: Recipe, folder: Path) -> dict[str, Any]:
    task, _ = prepared(recipe)
    model = task.model()
    task.save_pretrained(model, model.state_dict(), str(folder))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def test_the_saved_model_predicts_names(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe_problems(recipe) == []
    assert prepared(recipe)[1] == [1, 0, 1]
    config = saved(recipe, tmp_path / "model")
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}


def test_a_stored_head_is_trained_and_measured_in_its_own_order(recipe: Recipe, tmp_path: Path) -> None:
    names = ["Positive", "neutral", "Negative"]
    path = labeled(tmp_path / "three", [*ROWS, ("a", "neutral")])
    saved(replace(recipe, data=replace(recipe.data, path=path)), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    again = replace(recipe, model=Model(name=str(tmp_path / "model")))
    task, labels = prepared(again)
    assert labels == [0, 2, 0]
    assert task.num_labels == 3
    assert task.model().config.id2label == {0: "positive", 1: "neutral", 2: "negative"}


def test_a_teacher_whose_classes_have_other_numbers_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    turned = replace(recipe, data=replace(recipe.data, label_names=["positive", "negative"]))
    saved(turned, tmp_path / "teacher")
    settings = Task("distillation", distillation=Distillation(str(tmp_path / "teacher")))
    with pytest.raises(ConfigError, match=r"in another order: positive, negative\n.*data.label_names=\["):
        prepared(replace(recipe, task=settings))[0].model()
    assert prepared(replace(turned, task=settings))[0].model() is not None


def tags(folder: Path, train: list[list[Any]], dev: list[list[Any]]) -> Data:
    for split, rows in (("train", train), ("dev", dev)):
        lines = [json.dumps({"tokens": ["w"] * len(row), "tags": row}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return Data(path=str(folder))


def tag_problems(data: Data) -> list[str]:
    recipe = Recipe(task=Task("token_classification"), data=data, batch=Batch(2))
    return [str(problem).replace(f"{data.path}/", "") for problem in recipe_problems(recipe)]


def test_the_tags_do_not_depend_on_how_many_samples_are_taken(tmp_path: Path) -> None:
    train = [["O", "B-PER"], ["O"], ["O"], ["B-LOC"], ["O"], ["O"]]
    data = tags(tmp_path, train, [["B-LOC"], ["B-PER", "O"]])
    assert tag_problems(data) == []
    for most in (None, 1, 3, 5):
        tables, names = read_tag_tables(replace(data, max_samples=most))
        assert names == ["O", "B-LOC", "B-PER"]
        assert len(tables["train"]) == (most or 6)


def test_tags_that_only_evaluation_has_are_refused_or_named(tmp_path: Path) -> None:
    data = tags(tmp_path, [["O", "B-PER"]], [["B-LOC", "O"]])
    assert tag_problems(data) == [
        "dev.jsonl: has tags that train.jsonl does not have: B-LOC\n"
        "    name all tags: 'data.label_names=[O,B-PER,B-LOC]'"
    ]
    with pytest.raises(ConfigError, match="does not have: B-LOC"):
        read_tag_tables(data)
    named = replace(data, label_names=["O", "B-PER", "B-LOC"])
    assert tag_problems(named) == []
    assert read_tag_tables(named)[1] == ["O", "B-PER", "B-LOC"]
    assert tag_problems(replace(data, label_names=["O", "B-PER", "B-LOK"])) == [
        "dev.jsonl: sample 1: has tag 'B-LOC', which data.label_names has not\n    did you mean 'B-LOK'?"
    ]


def test_numbered_tags_have_the_names_that_a_saved_data_set_declares(tmp_path: Path) -> None:
    import datasets

    tag = datasets.ClassLabel(names=["O", "B-PER", "B-LOC"])
    words = datasets.List(datasets.Value("string"))
    features = datasets.Features({"tokens": words, "ner_tags": datasets.List(tag)})
    rows = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[1, 0]]}, features=features)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(str(tmp_path))
    data = Data(path=str(tmp_path))
    assert tag_problems(data) == []
    tables, names = read_tag_tables(data)
    assert names == ["O", "B-PER", "B-LOC"]
    assert tables["train"].columns["tags"] == [["B-PER", "O"]]
