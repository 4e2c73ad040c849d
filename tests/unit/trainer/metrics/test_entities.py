"""Entities and their F1: the cases that conlleval and seqeval decide."""

from __future__ import annotations

import pytest

from trainer.metrics.entities import entities, entity_metrics


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O B-LOC", [("PER", 1, 2), ("LOC", 4, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # IOB1
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),  # another type begins another entity
        ("B-PER I-PER E-PER S-LOC S-LOC", [("PER", 0, 2), ("LOC", 3, 3), ("LOC", 4, 4)]),  # IOBES
        ("E-PER I-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("NOUN NOUN VERB", [("NOUN", 0, 1), ("VERB", 2, 2)]),  # tags without prefixes
        ("O O", []),
        ("", []),
    ],
)
def test_entities_of_a_sequence(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_precision_recall_and_f1_count_whole_entities() -> None:
    gold = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    mine = [["O", "O", "B-MISC", "I-MISC", "O", "O"], ["B-PER", "I-PER", "B-LOC"]]
    found = entity_metrics(mine, gold)  # the person is right; one MISC is cut short, one LOC is not there
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["f1"] == pytest.approx(2 / 5)
    assert found["accuracy"] == pytest.approx(7 / 9)


def test_nothing_predicted_and_nothing_there_is_zero() -> None:
    assert entity_metrics([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 1}
