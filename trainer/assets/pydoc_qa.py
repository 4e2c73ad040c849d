"""Questions about Python's own documentation, with the answer as a span of the text. Needs no network.

Source: the sentences of `trainer.assets.pydoc_pairs` (`pydoc_data.topics`), so that no topic is in
both splits. A context is a few neighboring sentences. A question is one of them with a word
or two replaced by "what"; those words, which occur once in the context, are the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.assets.pydoc_pairs import digest, topics_of

NUM_QUESTIONS = {"train": 560, "eval": 140}
CONTEXT_SENTENCES = 4
MIN_LETTERS = 5
MAX_QUESTIONS_PER_TOPIC = 40

_WORD = re.compile(r"[A-Za-z_]+")


def questions(split: str) -> list[dict[str, Any]]:
    """Return records like those of a flat SQuAD file (`id`, `context`, `question`, `answers`).

    `split`: `train` or `eval`. The records are the same, in the same order, on every machine whose Python has
    the same text.
    """
    records = [record for topic in topics_of(split).values() for record in _of_topic(topic)]
    return sorted(records, key=lambda record: str(record["id"]))[: NUM_QUESTIONS[split]]


def _of_topic(sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of one topic."""
    records = [
        record
        for start in range(0, len(sentences) - 1, CONTEXT_SENTENCES)
        for record in _of_context(sentences[start : start + CONTEXT_SENTENCES])
    ]
    return sorted(records, key=lambda record: str(record["id"]))[:MAX_QUESTIONS_PER_TOPIC]


def _of_context(sentences: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one record per sentence of a context that has a word to ask for."""
    context = ". ".join(sentence.rstrip(".") for sentence in sentences) + "."
    for sentence in sentences:
        spans = [span for span in _spans(sentence) if context.count(sentence[slice(*span)]) == 1]
        if not spans:
            continue
        start, end = min(spans, key=lambda span: digest(sentence, str(span)))
        answer = sentence[start:end]
        yield {
            "id": digest(context, sentence)[:16],
            "context": context,
            "question": f"{sentence[:start]}what{sentence[end:]}".rstrip(".:") + "?",
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }


def _spans(sentence: str) -> list[tuple[int, int]]:
    """Return long words, and pairs of neighbors that end with one; never the first word of the sentence."""
    words = [match.span() for match in _WORD.finditer(sentence)][1:]
    long = [number for number, (start, end) in enumerate(words) if end - start >= MIN_LETTERS]
    pairs = [(words[n - 1][0], words[n][1]) for n in long if n and words[n][0] - words[n - 1][1] == 1]
    return [words[n] for n in long] + pairs
