"""EM and F1 of question answering: the cases that the published definitions decide."""

from __future__ import annotations

import pytest

from trainer.metrics.squad import exact, normalized, squad_metrics, token_f1


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The Cat", "cat"),
        ("  a  an THE ", ""),
        ("Theatre and another", "theatre and another"),
        ("U.S.A.", "usa"),
        ("twenty-one", "twentyone"),
        ("the-a", "thea"),  # punctuation goes first, so that this is one word and no article
        ("$1,000\n million", "1000 million"),
        ("naïve café — yes", "naïve café — yes"),  # a dash that is not ASCII is no punctuation there
    ],
)
def test_answers_are_compared_in_their_normal_form(text: str, form: str) -> None:
    assert normalized(text) == form


@pytest.mark.parametrize(
    ("predicted", "gold", "em", "f1"),
    [
        ("the Broncos", "Broncos", 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 / 3),
        ("Denver Denver", "Denver", 0, 2 / 3),  # a word counts as often as both have it
        ("Denver Denver", "Denver big Denver", 0, 4 / 5),
        ("Santa Clara", "Miami", 0, 0),
        ("", "Miami", 0, 0),
        ("the", "", 1, 1),  # no word left: no answer, as asked for
        ("Miami", "", 0, 0),
    ],
)
def test_one_answer_against_one_gold(predicted: str, gold: str, em: float, f1: float) -> None:
    assert exact(predicted, gold) == em
    assert token_f1(predicted, gold) == pytest.approx(f1)


def test_the_best_gold_counts_and_a_missing_prediction_is_wrong() -> None:
    references = {"1": ["Denver Broncos", "Broncos"], "2": ["gold", "the gold pants"], "3": ["x"]}
    found = squad_metrics({"1": "broncos", "2": "gold pants"}, references)
    assert found == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(200 / 3)}


def test_questions_without_an_answer_as_in_squad_v2() -> None:
    references = {"a": ["Paris", "city of Paris"], "b": [], "c": [], "d": ["the"]}
    predictions = {"a": "Paris city", "b": "", "c": "London", "d": ""}
    found = squad_metrics(predictions, references)
    # a: the best of 2·1/3 and 2·2/5; b right, c wrong; d's only gold has no word: none is right
    assert found["exact_match"] == pytest.approx(50)
    assert found["f1"] == pytest.approx(100 * (0.8 + 1 + 0 + 1) / 4)
    assert found["has_answer_f1"] == pytest.approx(90)
    assert found["no_answer_f1"] == pytest.approx(50)


def test_a_gold_without_a_word_matches_but_shares_no_words_in_squad_v1() -> None:
    assert squad_metrics({"a": "the"}, {"a": ["The"]}) == {"exact_match": 100, "f1": 0}
