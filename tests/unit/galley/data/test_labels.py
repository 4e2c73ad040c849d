"""Labels that are text: the numbers that they get, by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.data.check import check_class_sets, check_data, load_splits
from galley.data.labels import CLASS_SETS, CLASSES, class_order, numbered
from galley.schema import Data

UNSEEN = "dev.jsonl: has labels that DIR/train.jsonl does not have: "


def write(folder: Path, labels: list[Any], dev: list[Any] | None = None) -> Data:
    for name, values in (("train", labels), ("dev", labels if dev is None else dev)):
        rows = [json.dumps({"text": f"text {n}", "label": value}) for n, value in enumerate(values)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return Data(path=str(folder))


@pytest.mark.parametrize(
    ("values", "order", "numbers"),
    [
        (["positive", "negative", "positive"], ["negative", "positive"], [1, 0, 1]),
        ([True, False, "True"], ["false", "true"], [1, 0, 1]),
        (["yes", "no", " yes "], ["no", "yes"], [1, 0, 1]),
        (["b", "a", "C"], ["C", "a", "b"], [2, 1, 0]),
        ([1.0, 0.0, "1.0"], None, [1, 0, 1]),
        ([2, "1", 0.0], None, [2, 1, 0]),
    ],
)
def test_text_is_numbered_in_its_own_order_whatever_the_rows(
    tmp_path: Path, values: list[Any], order: list[str] | None, numbers: list[int]
) -> None:
    data = write(tmp_path, values)
    assert check_data(data) == []
    splits = load_splits(data)
    assert class_order(splits, None) == order
    labels = splits["train"].labels
    assert (numbered(labels, order) if order else labels) == numbers
    turned = load_splits(write(tmp_path, values[::-1]))
    assert class_order(turned, None) == order


@pytest.mark.parametrize(
    ("names", "values", "numbers"),
    [
        (["positive", "negative"], ["positive", "negative"], [0, 1]),
        (["bad", "good"], [1, 0], [1, 0]),
        (["bad", "neutral", "good"], ["good", "bad"], [2, 0]),
        (["1", "2", "3"], [3, 1], [2, 0]),
        (["5", "1"], ["1", "5.0"], [1, 0]),
    ],
)
def test_the_recipe_names_the_classes_in_their_order(
    tmp_path: Path, names: list[str], values: list[Any], numbers: list[int]
) -> None:
    data = Data(path=write(tmp_path, values).path, label_names=names)
    assert check_data(data) == []
    splits = load_splits(data)
    assert class_order(splits, names) == names
    assert numbered(splits["train"].labels, names) == numbers


@pytest.mark.parametrize(
    ("stored", "order"),
    [
        (["POSITIVE", "NEGATIVE"], ["positive", "negative"]),
        (["negative", "neutral", "Positive"], ["negative", "neutral", "positive"]),
        (["good", "bad"], ["negative", "positive"]),
        ([], ["negative", "positive"]),
    ],
)
def test_the_order_of_a_stored_model_is_kept_where_it_has_all_classes(
    tmp_path: Path, stored: list[str], order: list[str]
) -> None:
    splits = load_splits(write(tmp_path, ["negative", "positive"]))
    assert class_order(splits, None, lambda: stored) == order
    assert class_order(splits, ["positive", "negative"], lambda: stored) == ["positive", "negative"]


@pytest.mark.parametrize(
    ("values", "dev", "names", "problem"),
    [
        (["a", "b"], ["c"], None, UNSEEN + "c\n    labels of training: a, b"),
        (["a", "b"], [0], None, UNSEEN + "0\n    labels of training: a, b"),
        (
            ["a", 0, 1],
            ["a"],
            None,
            "train.jsonl: has labels of two kinds: numbers (0, 1) and text (a)\n"
            "    write all of them as numbers, or all as text",
        ),
        (
            ["good", "bad", "god"],
            ["bad"],
            ["bad", "good"],
            "train.jsonl: has labels that data.label_names has not: god\n"
            "    did you mean 'good'? valid: bad, good",
        ),
        (
            ["a", "b"],
            ["a"],
            ["a", "b", "a"],
            "data.label_names: has a name twice: a, b, a\n    one name a class",
        ),
        (
            ["x", "x"],
            ["x"],
            None,
            "train.jsonl: all 2 samples have label x\n    training needs two classes at least",
        ),
    ],
)
def test_what_labels_of_text_have_to_keep(
    tmp_path: Path, values: list[Any], dev: list[Any], names: list[str] | None, problem: str
) -> None:
    data = Data(path=write(tmp_path, values, dev).path, label_names=names)
    found = [str(one).replace(f"{tmp_path}/", "") for one in check_data(data)]
    assert found == [problem.replace("DIR/", "")]


def test_sets_of_classes_have_names_and_no_gaps(tmp_path: Path) -> None:
    splits = load_splits(write(tmp_path, [["b", "a"], [], ["c"]]), labels=CLASS_SETS)
    order = class_order(splits, None)
    assert order == ["a", "b", "c"]
    assert numbered(splits["train"].labels, order) == [[0, 1], [], [2]]
    (gap,) = check_class_sets(write(tmp_path, [[0, 50331], [1]]))
    assert gap.what == "has labels up to 50331, but none is 2"
    named = Data(path=write(tmp_path, [[0], [2]]).path, label_names=["x", "y", "z"])
    assert check_class_sets(named) == []


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_classes_that_a_file_declares_are_named_in_the_files_order(tmp_path: Path, suffix: str) -> None:
    import datasets

    for split, names in (("train", ["pos", "neg", "none"]), ("dev", ["neg", "pos", "none"])):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        if suffix == "parquet":
            rows.to_parquet(str(tmp_path / f"{split}.parquet"))
        else:
            rows.save_to_disk(str(tmp_path / ("train" if split == "train" else "validation")))
        if suffix == "arrow" and split == "dev":
            (tmp_path / "validation").rename(tmp_path / "dev")
    splits = load_splits(Data(path=str(tmp_path)), labels=CLASSES)
    order = class_order(splits, None)
    assert order == ["pos", "neg", "none"]
    assert [numbered(splits[name].labels, order) for name in ("train", "eval")] == [[0, 1], [1, 0]]
