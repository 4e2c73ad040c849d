"""Where the samples come from, and how many of them are taken."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Data, Eval, Recipe, Source, Task
from galley.tasks import task_of
from trainer.data.questions import read_question_sets
from trainer.data.raw import read_tables
from trainer.data.sources import read_splits


def sorted_by_class(folder: Path) -> Data:
    body = "".join(f"text {n},{n // 10}\n" for n in range(30))
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text("text,label\n" + body)
    return Data(path=str(folder))


def test_the_embedded_pairs() -> None:
    splits = read_splits(Data())
    assert splits.eval is not None
    assert (len(splits.train.labels), len(splits.eval.labels), splits.num_labels) == (960, 240, 2)
    assert [len(column) for column in splits.train.texts] == [960, 960]


def test_max_samples_are_spread_over_a_sorted_file_and_keep_their_labels(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    splits = read_splits(Data(path=path, max_samples=6))
    assert splits.eval is not None
    assert splits.train.labels == splits.eval.labels == [0, 0, 1, 1, 2, 2]
    assert [int(text.split()[1]) // 10 for text in splits.train.texts[0]] == splits.train.labels


def test_the_number_of_classes_does_not_depend_on_max_samples(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    assert read_splits(Data(path=path, max_samples=3, max_eval_samples=1)).num_labels == 3


def test_more_than_there_is_takes_all(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    assert read_splits(Data(path=path, max_samples=99)) == read_splits(Data(path=path))


def test_the_log_counts_what_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = sorted_by_class(tmp_path)
    with caplog.at_level(logging.INFO, "galley"):
        read_splits(Data(path=data.path, max_samples=3))
    assert caplog.messages[0] == (
        f"{tmp_path}/train.csv: 3 samples (1 of class 0, 1 of class 1, 1 of class 2)"
    )


def test_an_unknown_embedded_set_gets_the_valid_names() -> None:
    with pytest.raises(ConfigError) as caught:
        read_splits(Data(name="embedded:pydoc_pair"))
    assert str(caught.value) == (
        "data.name=embedded:pydoc_pair: is not embedded\n"
        "    did you mean 'pydoc_pairs'? valid: pydoc_pairs, pydoc_triplets, pydoc_neighbors, pydoc_qa, "
        "pydoc_text, pydoc_dialogue"
    )


def test_evaluation_is_taken_from_training_and_has_a_limit_of_its_own(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path).path
    (tmp_path / "dev.csv").unlink()
    splits = read_splits(Data(path=path, hold_out=6, max_samples=8, max_eval_samples=3))
    assert splits.eval is not None
    assert splits.eval.labels == [0, 1, 2]
    assert len(splits.train) == 8
    whole = read_splits(Data(path=path, hold_out=6))
    assert whole.eval is not None
    assert whole.eval.labels == [0, 0, 1, 1, 2, 2]
    assert sorted([*whole.train.texts[0], *whole.eval.texts[0]]) == sorted(f"text {n}" for n in range(30))
    with pytest.raises(ConfigError, match="none would be left for training"):
        read_splits(Data(path=path, hold_out=30))


def test_labeled_data_are_mixed_by_weight_and_checked_as_a_whole(tmp_path: Path) -> None:
    for name, label in (("no", 0), ("yes", 1)):  # neither could be trained alone
        (tmp_path / name).mkdir()
        for split in ("train-1", "train-2", "dev"):
            body = "".join(f"{name} {n},{label}\n" for n in range(6))
            (tmp_path / name / f"{split}.csv").write_text("text,label\n" + body)
    mix = [Source(path=str(tmp_path / "no"), weight=3), Source(path=str(tmp_path / "yes"))]
    data = Data(name="", mix=mix)
    assert recipe_problems(Recipe(data=data, batch=Batch(8))) == []
    splits = read_splits(data)
    assert splits.eval is not None
    assert [splits.train.labels.count(label) for label in (0, 1)] == [12, 4]
    assert [splits.eval.labels.count(label) for label in (0, 1)] == [6, 6]
    with pytest.raises(ConfigError, match="two classes at least"):
        read_splits(Data(name="", mix=mix[:1]))


def test_questions_of_two_sources_keep_their_answers_apart() -> None:
    mix = [Source(name="embedded:pydoc_qa"), Source(name="embedded:pydoc_qa")]
    found = read_question_sets(Data(mix=mix, max_samples=40, max_eval_samples=10))
    assert [len(found[split]) for split in ("train", "eval")] == [40, 10]
    assert len({question.id for question in found["train"].questions}) == 40


def test_columns_that_a_classifier_does_not_read_are_refused() -> None:
    for kind in ("sequence_classification", "sequence_regression"):
        problems = recipe_problems(
            Recipe(task=Task(kind), data=Data(columns={"text": "tweet"}), batch=Batch(8))
        )
        assert [problem.where for problem in problems] == ["data.columns"]
        assert "data.text_columns" in problems[0].hint


def test_where_nothing_is_trained_no_training_rows_are_needed(tmp_path: Path) -> None:
    """Of the tasks that learn nothing from them; a classifier still needs the classes."""
    rows = {
        "seq2seq": {"source": "What?", "target": "That."},
        "contrastive": {"anchor": "What?", "positive": "That."},
        "causal_lm": {"text": "That."},
        "question_answering": {"question": "Who?", "context": "Ada.", "answers": {"text": ["Ada"]}},
        "sequence_classification": {"text": "That.", "label": 0},
    }
    refused = {}
    for kind, row in rows.items():
        data = Data(path=str(tmp_path / kind))
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "dev.jsonl").write_text(json.dumps(row) + "\n")
        for only in (True, False):
            recipe = Recipe(task=Task(kind), data=data, eval=Eval(only=only), batch=Batch(8))
            refused[kind, only] = any("has no train.*" in str(p) for p in recipe_problems(recipe))
        if roles := task_of(recipe).roles:
            assert list(read_tables(data, roles, need="eval")) == ["eval"]
    classifier = "sequence_classification"
    assert [key for key, missing in refused.items() if not missing] == [
        (kind, True) for kind in rows if kind != classifier
    ]
    assert list(read_question_sets(Data(name="embedded:pydoc_qa"), need="eval")) == ["eval"]
