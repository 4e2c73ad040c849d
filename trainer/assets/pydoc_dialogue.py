"""Questions about Python and their answers, from its own documentation. Needs no network.

Source: `pydoc_data.topics`, which every CPython has. Every sentence that says what something is
("The yield expression is used when …") answers a question that asks for it ("What is the yield
expression?"). Each topic is in one split only, so that no text of the evaluation occurs in training.
"""

from __future__ import annotations

import re

from trainer.assets.pydoc_pairs import topics_of

# "The SUBJECT is …": the start of a sentence that can answer a question.
_SUBJECT = re.compile(
    r"^(?P<subject>(?:The|A|An|This|Each|If the) [\w\"' -]{3,40}?) (?P<verb>is|are|may|can|must|has|have) "
)
_QUESTIONS = {
    "is": "What is {}?",
    "are": "What are {}?",
    "may": "What may {} do?",
    "can": "What can {} do?",
    "must": "What must {} do?",
    "has": "What does {} have?",
    "have": "What do {} have?",
}


def rows(split: str) -> list[dict[str, str]]:
    """Return rows of a question (`source`) and its answer (`target`).

    Every question occurs once, with its first answer.
    """
    answers: dict[str, str] = {}
    for sentences in topics_of(split).values():
        for sentence in sentences:
            question = _question(sentence)
            if question is not None:
                answers.setdefault(question, f"{sentence}.")
    return [{"source": question, "target": answer} for question, answer in answers.items()]


def _question(sentence: str) -> str | None:
    """Return the question that the sentence answers; None if there is none."""
    match = _SUBJECT.match(sentence)
    if match is None:
        return None
    subject = match["subject"]
    return _QUESTIONS[match["verb"]].format(subject[0].lower() + subject[1:])
