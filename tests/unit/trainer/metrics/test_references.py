"""Every metric against the library that defines it, on the same predictions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn import metrics

from trainer.metrics.entities import entity_metrics
from trainer.metrics.regression import regression_metrics
from trainer.metrics.retrieval import retrieval_metrics
from trainer.metrics.squad import squad_metrics
from trainer.tasks.multi_label import multi_label_metrics
from trainer.tasks.sequence_classification import classification_metrics

DRAWS = range(20)


@pytest.mark.parametrize("num_labels", [2, 3, 7])
def test_classification_is_that_of_scikit_learn(num_labels: int) -> None:
    for seed in DRAWS:
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, num_labels, 31)
        logits = draw.normal(size=(31, num_labels)) + 2 * np.eye(num_labels)[labels]
        found, predicted = classification_metrics(logits, labels, num_labels), logits.argmax(1)
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        every = list(range(num_labels))
        macro = metrics.f1_score(labels, predicted, labels=every, average="macro", zero_division=0)
        assert found["loss"] == pytest.approx(metrics.log_loss(labels, shares, labels=every))
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
        f1 = metrics.f1_score(labels, predicted, zero_division=0) if num_labels == 2 else macro
        assert found["f1"] == pytest.approx(f1)


def test_regression_is_that_of_scipy_and_scikit_learn() -> None:
    for seed in DRAWS:
        draw = np.random.default_rng(seed)
        target, predicted = draw.integers(0, 6, 40).astype(float), draw.normal(size=40).round(1)
        found = regression_metrics(predicted, target)
        assert found["mse"] == pytest.approx(metrics.mean_squared_error(target, predicted))
        assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, target).statistic)
        assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, target).statistic)


def test_multi_label_is_that_of_scikit_learn() -> None:
    for seed in DRAWS:
        draw = np.random.default_rng(seed)
        actual, predicted = draw.random((2, 25, 6)) < [[[0.4]], [[0.5]]]
        actual[:, 5] = predicted[:, 5] = False  # a class that nobody has
        found = multi_label_metrics(predicted, actual)
        for name, average in (("f1", "micro"), ("f1_macro", "macro")):
            theirs = metrics.f1_score(actual, predicted, average=average, zero_division=0)
            assert found[name] == pytest.approx(theirs)
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(actual, predicted))


def test_entities_are_those_of_seqeval() -> None:
    """Tags drawn blindly hold every sequence that a model may predict, wrong ones among them."""
    draw = random.Random(4)
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC"))]
    for _ in DRAWS:
        lengths = [draw.randint(1, 12) for _ in range(17)]
        gold, mine = ([draw.choices(tags, k=length) for length in lengths] for _ in range(2))
        mine = [a if draw.random() < 0.6 else b for a, b in zip(gold, mine, strict=True)]
        found = entity_metrics(mine, gold)
        assert found["precision"] == pytest.approx(precision_score(gold, mine))
        assert found["recall"] == pytest.approx(recall_score(gold, mine))
        assert found["f1"] == pytest.approx(f1_score(gold, mine))


def test_retrieval_is_that_of_scikit_learn() -> None:
    """With one right partner the mean reciprocal rank is the ranking precision of the labels."""
    draw = np.random.default_rng(8)
    queries, partners = draw.normal(size=(2, 23, 4))
    found = retrieval_metrics(queries, partners)
    scores, right = queries @ partners.T, np.eye(23)
    assert found["mrr"] == pytest.approx(metrics.label_ranking_average_precision_score(right, scores))
    assert found["accuracy"] == pytest.approx(metrics.top_k_accuracy_score(np.arange(23), scores, k=1))


ANSWERS = {
    "a": ("Denver Broncos", ["the Broncos", "Denver Broncos!", "Carolina"]),
    "b": ("in the 1990s , maybe", ["1990s", "the 1990s"]),
    "c": ("a b c d e", ["e d c x"]),
    "d": ("$3.5 million", ["3.5 million dollars", "about $3.5 million"]),
    "e": ("Beyonc\u00e9", ["beyonc\u00e9 Knowles", "Beyonce"]),
    "f": ("", ["nothing"]),
}
SECOND = {**ANSWERS, "g": ("", []), "h": ("something", []), "i": ("", ["the"])}


def test_answers_are_scored_as_by_the_official_scripts_of_squad() -> None:
    """What evaluate-v1.1.py and evaluate-v2.0.py print for these cases."""
    first = squad_metrics({k: p for k, (p, _) in ANSWERS.items()}, {k: g for k, (_, g) in ANSWERS.items()})
    assert first == pytest.approx({"exact_match": 16.666666666666668, "f1": 61.944444444444436})
    second = squad_metrics({k: p for k, (p, _) in SECOND.items()}, {k: g for k, (_, g) in SECOND.items()})
    assert second == pytest.approx(
        {
            "exact_match": 33.333333333333336,
            "f1": 63.51851851851851,
            "has_answer_f1": 67.38095238095238,
            "no_answer_f1": 50.0,
        }
    )
