"""Exact match and F1 of extractive question answering, as SQuAD defines them, in percent.

Definition: Rajpurkar et al., arXiv:1606.05250 (v1.1) and arXiv:1806.03822 (v2.0). Answers are
compared in lower case, without punctuation, without the words a, an, the, and with single spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return the form in which answers are compared.

    Articles are removed after punctuation: `a-b` is one word.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(predicted: str, gold: str) -> float:
    return float(normalized(predicted) == normalized(gold))


def token_f1(predicted: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over the words that the two answers share.

    If either answer has no word, the result is 1 if neither has, else 0.
    """
    mine, theirs = normalized(predicted).split(), normalized(gold).split()
    if not mine or not theirs:
        return float(mine == theirs)
    shared = (Counter(mine) & Counter(theirs)).total()
    return 2.0 * shared / (len(mine) + len(theirs))


def squad_metrics(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return the metrics of a set of questions, in percent.

    `predictions`: question id -> answer text, "" for no answer. `references`: question id -> all right
    answers, none for an unanswerable question. The best of the right answers counts; a question without a
    prediction scores 0. If any question has no answer, the rules of v2.0 apply, and `has_answer_f1` and
    `no_answer_f1` are the means over the two kinds of questions.
    """
    second = any(not golds for golds in references.values())
    scores = {key: _score(predictions.get(key), golds, second) for key, golds in references.items()}
    metrics = _mean(list(scores.values()))
    for name, answerable in (("has_answer_f1", True), ("no_answer_f1", False)):
        of_kind = [scores[key] for key, golds in references.items() if bool(golds) == answerable]
        if second and of_kind:
            metrics[name] = _mean(of_kind)["f1"]
    return metrics


def _score(predicted: str | None, golds: Sequence[str], second: bool) -> tuple[float, float]:
    """Return exact match and F1 of one answer.

    v2.0 leaves out right answers without a word, and takes "no answer" for right if none is left. In v1.1
    such a right answer shares no words with any prediction.
    """
    if predicted is None:
        return 0.0, 0.0
    if second:
        golds = [gold for gold in golds if normalized(gold)] or [""]
    f1s = [token_f1(predicted, gold) if second or normalized(gold) else 0.0 for gold in golds]
    return max(exact(predicted, gold) for gold in golds), max(f1s)


def _mean(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the means of exact match and F1, in percent."""
    exacts, f1s = zip(*scores, strict=True)
    return {"exact_match": 100.0 * sum(exacts) / len(exacts), "f1": 100.0 * sum(f1s) / len(f1s)}
