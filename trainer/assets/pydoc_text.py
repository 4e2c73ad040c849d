"""Python's own documentation as text, for language modeling. Needs no network.

Source: `pydoc_data.topics`, which every CPython carries: 465 000 characters in 79 topics. A topic is
wholly in one split, the same as in `pydoc_pairs`. Topics quote each other, and one has two names: what
stands in a topic of the evaluation is left out of training.
"""

from __future__ import annotations

import re

from trainer.assets.pydoc_pairs import is_in_split

_BLANK = re.compile(r"\n[^\S\n]*\n")
# Shorter paragraphs are headings and code that everybody writes.
QUOTED_LENGTH = 40


def rows(split: str) -> list[dict[str, str]]:
    """One text a topic, in the order of their names."""
    held_out = _texts("eval")
    if split == "eval":
        return [{"text": text} for text in held_out]
    seen = {paragraph for text in held_out for paragraph in long_paragraphs(text)}
    kept = ("\n\n".join(p for p in _BLANK.split(text) if p.strip() not in seen) for text in _texts("train"))
    return [{"text": text.strip()} for text in kept if text.strip()]


def long_paragraphs(text: str) -> list[str]:
    found = (paragraph.strip() for paragraph in _BLANK.split(text))
    return [paragraph for paragraph in found if len(paragraph) >= QUOTED_LENGTH]


def _texts(split: str) -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics) if is_in_split(name, split)]
