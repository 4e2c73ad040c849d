"""Questions about Python and their answers, from its own documentation. Needs no network.

Source: `pydoc_data.topics`, which every CPython carries. Every sentence that says what something is
("The yield expression is used when …") answers a question that asks for it ("What is the yield
expression?"). A topic is wholly in one split, so that nothing of the evaluation is seen in training.
"""

from __future__ import annotations

import re

from trainer.assets.pydoc_pairs import topics_of

# "The SUBJECT is …", and how one asks for it.
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
    """`source`: a question; `target`: its answer. Every question occurs once, with its first answer."""
    found: dict[str, str] = {}
    for sentences in topics_of(split).values():
        for sentence in sentences:
            question = _question(sentence)
            if question is not None:
                found.setdefault(question, f"{sentence}.")
    return [{"source": question, "target": answer} for question, answer in found.items()]


def _question(sentence: str) -> str | None:
    match = _SUBJECT.match(sentence)
    if match is None:
        return None
    subject = match["subject"]
    return _QUESTIONS[match["verb"]].format(subject[0].lower() + subject[1:])
