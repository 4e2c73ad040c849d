"""Sentence pairs from Python's own documentation: are both from the same topic? Needs no network.

Source: `pydoc_data.topics`, which every CPython has. A sentence belongs to the most specific
(shortest) topic that quotes it, so that no sentence is under two topics. Each topic is
in one split only, so that no text of the evaluation occurs in training.

A positive pair is a sentence and one that follows closely in its topic and shares a word; the
negatives pair the same first sentences with the second sentences of other topics. Both classes
hold the same sentences, equally often, so that only their relation distinguishes them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

Pair = tuple[str, str, int]
"""First sentence, second sentence, label: 1 for the same topic, 0 for another."""

NUM_PAIRS = {"train": 960, "eval": 240}
MIN_WORDS, MAX_WORDS = 4, 16
# The sentences of a pair are at most REACH apart, and share a word of at least STEM letters.
REACH = 3
STEM = 5
# One topic in EVAL_EVERY is kept for evaluation.
EVAL_EVERY = 4
# At most half of the smaller split, so that every topic can be crossed with others.
MAX_PAIRS_PER_TOPIC = 60

_UNDERLINE = re.compile(r"^[*=\-~^\"]{3,}$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<=[a-z0-9)\"\]])\.\s+(?=[A-Z\"])")
_WORD = re.compile(r"[a-z_]+")
_CODE = re.compile(r">>>|::=|^\s{6,}\S|[{}]|=\s", re.MULTILINE)


def pairs(split: str) -> list[Pair]:
    """Return all pairs of `train` or `eval`: unique, equally many of either label, ordered by content.

    They are the same on every machine whose Python has the same text.
    """
    positives = _positives(split)
    chosen = positives[: NUM_PAIRS[split] // 2]
    mixed = [(a, b, 1) for _, a, b in chosen] + [(a, b, 0) for a, b in _crossed(chosen)]
    return sorted(mixed, key=lambda pair: digest(*pair[:2]))


def rows(split: str) -> list[dict[str, str | int]]:
    """Return `pairs` under the names of columns."""
    return [
        {"sentence1": first, "sentence2": second, "label": label} for first, second, label in pairs(split)
    ]


def triplets(split: str) -> list[dict[str, str]]:
    """Return each first sentence with its successor, and the second sentence of another topic."""
    chosen = _positives(split)[: NUM_PAIRS[split] // 2]
    crossed = dict(_crossed(chosen))
    return [{"anchor": a, "positive": b, "negative": crossed[a]} for _, a, b in chosen]


def neighbors(split: str) -> list[dict[str, str]]:
    """Return pairs of a sentence and the next one of its topic, neither of which is in `triplets`."""
    used = {text for row in triplets(split) for text in row.values()}
    unused = [pair for topic in topics_of(split).values() for pair in pairwise(topic) if not used & {*pair}]
    chosen = sorted(unused, key=lambda pair: digest(*pair))[: NUM_PAIRS[split] // 2]
    return [{"anchor": first, "positive": second} for first, second in chosen]


def topics_of(split: str) -> dict[str, list[str]]:
    """Return the sentences of each topic of a split, in the order of the text."""
    return {
        name: list(sentences) for name, sentences in _sentences_by_topic().items() if is_in_split(name, split)
    }


def is_in_split(topic: str, split: str) -> bool:
    """Return whether the topic is in the split. Each topic is wholly in `train`, or wholly in `eval`."""
    return (int(digest(topic), 16) % EVAL_EVERY == 0) == (split == "eval")


def _positives(split: str) -> list[tuple[str, str, str]]:
    """Return (topic, sentence, successor that shares a word), each sentence once in front."""
    positives = []
    for name, sentences in topics_of(split).items():
        close = [
            (name, first, second)
            for position, first in enumerate(sentences, 1)
            for second in _related(first, sentences[position : position + REACH])
        ]
        positives += sorted(close, key=lambda pair: digest(*pair))[:MAX_PAIRS_PER_TOPIC]
    return sorted(positives, key=lambda pair: digest(*pair))


def _related(first: str, successors: Sequence[str]) -> Sequence[str]:
    """Return the nearest of the successors that shares a word with `first`, if there is one."""
    return [second for second in successors if _content(first) & _content(second)][:1]


def _crossed(positives: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each first sentence with the second sentence of another topic, every one used once.

    In the order of topics, a shift by the size of the largest topic never meets the same topic again.
    """
    ordered = sorted(positives, key=lambda pair: (pair[0], digest(*pair)))
    names = [name for name, _, _ in ordered]
    shift = max(names.count(name) for name in set(names))
    for i, (_, first, _) in enumerate(ordered):
        yield first, ordered[(i + shift) % len(ordered)][2]


@cache
def _sentences_by_topic() -> dict[str, tuple[str, ...]]:
    """Return the sentences of each topic; a sentence belongs to the shortest topic that has it."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    by_topic = {}
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        fresh = [s for s in dict.fromkeys(_sentences(topics[name])) if s not in seen]
        seen.update(fresh)
        if len(fresh) > 1:
            by_topic[name] = tuple(fresh)
    return by_topic


def _sentences(text: str) -> Iterator[str]:
    """Yield the plain sentences of a text: no headings, no code."""
    for block in re.split(r"\n\s*\n", text):
        if _UNDERLINE.search(block) or _CODE.search(block):
            continue
        prose = " ".join(block.split()).removeprefix("* ")
        for sentence in _SENTENCE_END.split(prose):
            words = sentence.rstrip(".:").split()
            if MIN_WORDS <= len(words) <= MAX_WORDS and sentence[0].isupper():
                yield " ".join(words)


def _content(sentence: str) -> set[str]:
    """Return the words that carry meaning, cut to their first letters."""
    return {word[:STEM] for word in _WORD.findall(sentence.lower()) if len(word) >= STEM}


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
