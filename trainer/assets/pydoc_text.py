"""Python's own documentation as text, for language modeling. Needs no network.

Source: `pydoc_data.topics`, which every CPython has: 465 000 characters in 79 topics. Each topic is
in one split only, the same as in `pydoc_pairs`. Topics quote each other, and one has two names: paragraphs
of a topic of the evaluation are left out of training.
"""

from __future__ import annotations

import re

from trainer.assets.pydoc_pairs import is_in_split

_BLANK = re.compile(r"\n[^\S\n]*\n")
# Shorter paragraphs are headings and common code, which may occur in both splits.
QUOTED_LENGTH = 40


def rows(split: str) -> list[dict[str, str]]:
    """Return one text per topic, in the order of their names."""
    held_out = _texts("eval")
    if split == "eval":
        return [{"text": text} for text in held_out]
    seen = {paragraph for text in held_out for paragraph in long_paragraphs(text)}
    kept = ("\n\n".join(p for p in _BLANK.split(text) if p.strip() not in seen) for text in _texts("train"))
    return [{"text": text.strip()} for text in kept if text.strip()]


def long_paragraphs(text: str) -> list[str]:
    """Return the paragraphs that are long enough to be quotations."""
    paragraphs = (paragraph.strip() for paragraph in _BLANK.split(text))
    return [paragraph for paragraph in paragraphs if len(paragraph) >= QUOTED_LENGTH]


def _texts(split: str) -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics) if is_in_split(name, split)]
