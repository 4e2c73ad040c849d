"""What `data.max_samples` and `data.hold_out` take: shares counted by hand, of orders that mislead."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.config.rules.recipe import recipe_problems
from galley.data.check import check_data
from galley.data.sampling import drawn, drawn_apart, mixture_sizes
from galley.schema import Batch, Data, Eval, Recipe, Source, Task

ORDERS = {
    "alternating": [n % 2 for n in range(100)],
    "sorted": [n // 50 for n in range(100)],
    "three in turn": [n % 3 for n in range(99)],
    "ten in turn": [n % 10 for n in range(100)],
    "rare": [0] * 95 + [1] * 4 + [2],
}


def shares(labels: list[int], rows: list[int]) -> dict[int, int]:
    return dict(sorted(Counter(labels[row] for row in rows).items()))


@pytest.mark.parametrize(
    ("order", "count", "expected"),
    [
        ("alternating", 50, {0: 25, 1: 25}),
        ("alternating", 10, {0: 5, 1: 5}),
        ("sorted", 50, {0: 25, 1: 25}),
        ("three in turn", 33, {0: 11, 1: 11, 2: 11}),
        ("three in turn", 9, {0: 3, 1: 3, 2: 3}),
        ("ten in turn", 20, dict.fromkeys(range(10), 2)),
        ("rare", 20, {0: 18, 1: 1, 2: 1}),  # 19 + 0.8 + 0.2 by share; class 2 needs a row
        ("rare", 3, {0: 1, 1: 1, 2: 1}),
    ],
)
def test_every_class_keeps_its_share_whatever_the_order(
    order: str, count: int, expected: dict[int, int]
) -> None:
    labels = ORDERS[order]
    rows = drawn(len(labels), count, [(label,) for label in labels])
    assert shares(labels, rows) == expected


@pytest.mark.parametrize("period", [2, 3, 5, 7])
def test_rows_without_classes_are_drawn_from_all_phases_of_a_period(period: int) -> None:
    rows = drawn(period * 100, 100)
    phases = Counter(row % period for row in rows)
    assert len(phases) == period
    assert max(phases.values()) < 2 * 100 / period


@given(
    st.lists(st.sets(st.integers(0, 4), max_size=3).map(lambda found: tuple(sorted(found))), min_size=2),
    st.data(),
)
def test_a_draw_has_its_size_and_every_class_it_can(rows: list[tuple[int, ...]], data: Any) -> None:
    count = data.draw(st.integers(1, len(rows) - 1))
    chosen = drawn(len(rows), count, rows)
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen) == drawn(len(rows), count, rows)
    every = {name for row in rows for name in row}
    if count >= len(every):
        assert {name for row in chosen for name in rows[row]} == every
    held_out = set(drawn_apart(len(rows), count, rows))
    assert len(held_out) == count
    if len(rows) - count >= len(every):
        assert {name for number, row in enumerate(rows) if number not in held_out for name in row} == every


def write(folder: Path, labels: list[int], splits: tuple[str, ...] = ("train", "dev")) -> str:
    folder.mkdir(exist_ok=True)
    body = "".join(f"text {number},{label}\n" for number, label in enumerate(labels))
    for split in splits:
        (folder / f"{split}.csv").write_text("text,label\n" + body)
    return str(folder)


def test_the_rules_between_labels_hold_for_what_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, ORDERS["three in turn"])
    assert check_data(Data(path=path, max_samples=3)) == []
    few = [str(problem) for problem in check_data(Data(path=path, max_samples=1))]
    assert few == [
        f"{path}/train.csv with data.max_samples=1: all 1 sample have label "
        f"{few[0].split('label ')[1][0]}\n    training needs two classes at least"
    ]


@pytest.mark.parametrize(
    ("hold_out", "words"),
    [
        (99, "has 99 samples: none would be left for training"),
        (98, "all 1 sample have label"),
        (60, None),
    ],
)
def test_what_is_held_out_is_judged_before_anything_is_started(
    tmp_path: Path, hold_out: int, words: str | None
) -> None:
    path = write(tmp_path, ORDERS["three in turn"], ("train",))
    recipe = Recipe(data=Data(path=path, hold_out=hold_out), batch=Batch(8))
    problems = [str(problem) for problem in recipe_problems(recipe)]
    assert len(problems) == (words is not None)
    assert all(words in problem for problem in problems if words)


def test_local_sources_are_judged_as_a_mixture(tmp_path: Path) -> None:
    mix = [Source(path=write(tmp_path / f"{label}", [label] * 4)) for label in (0, 0)]
    (problem,) = recipe_problems(Recipe(data=Data(name="", mix=mix), batch=Batch(8)))
    assert problem.what == "all 8 samples have label 0"
    assert mixture_sizes([4, 4], [3, 1]) == [4, 1]


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        ("sequence_classification", "text,label"),
        ("sequence_regression", "text,label"),
        ("causal_lm", "text,label"),
        ("seq2seq", "source,target"),
        ("contrastive", "anchor,positive"),
    ],
)
def test_nothing_is_measured_without_an_evaluation_split(tmp_path: Path, kind: str, header: str) -> None:
    (tmp_path / "train.csv").write_text(f"{header}\na,0\nb,1\n")
    recipe = Recipe(task=Task(kind), data=Data(path=str(tmp_path)), batch=Batch(8), eval=Eval(enabled=False))
    assert recipe_problems(recipe) == []
    missing = recipe_problems(Recipe(task=Task(kind), data=Data(path=str(tmp_path)), batch=Batch(8)))
    assert ["has no dev.* or validation.*" in str(problem) for problem in missing] == [True]
