"""Questions and contexts cut into overlapping windows of tokens, each with the answer's position in it.

One row per window: `input_ids`, `token_type_ids`; `char_starts`, `char_ends` (characters of the context
that a token covers, -1 for tokens of the question and special ones); `start`, `end` (first and last
token of the first answer, or the first token of the window if the answer is not wholly in it);
`question`, its position in the split.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galley.data.squad import Question, QuestionSet, question_limit
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.encoding import Tokenization, tokenization

log = logging.getLogger("galley")

FORMAT = 2
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.uint32())),
        ("token_type_ids", pa.list_(pa.uint8())),
        ("char_starts", pa.list_(pa.int32())),
        ("char_ends", pa.list_(pa.int32())),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("question", pa.int32()),
    ]
)


@dataclass(frozen=True)
class WindowSize:
    """The size of a window: `length` in tokens; `stride`: tokens of the context that two neighbors share."""

    length: int
    stride: int


def windows(split: QuestionSet, tokenizer: Any, size: WindowSize, cache: Path) -> ArrowDataset:
    """Return the windows of all questions, in their order, from the cache or made now."""
    how = tokenization(tokenizer, size.length, strategy="only_second", stride=size.stride)
    content = [[q.question, q.context, list(map(list, q.spans))] for q in split.questions]
    return stored(
        digest({"format": FORMAT, **how.identity}, [content]), lambda: _table(split, how, size), cache
    )


def _table(split: QuestionSet, how: Tokenization, size: WindowSize) -> pa.Table:
    questions = _cut(split, how, question_limit(size.length))
    encoded = how.encode([(text, q.context) for text, q in zip(questions, split.questions, strict=True)])
    rows = [
        _window(window, question) | {"question": number}
        for number, (question, first) in enumerate(zip(split.questions, encoded, strict=True))
        for window in (first, *first.overflowing)
    ]
    lost = _never_whole(split.questions, rows)
    log.info("%s: %d windows of at most %d tokens", split.where, len(rows), size.length)
    if lost:
        log.warning("%s: %d answers are cut by every window: lengthen task.qa.doc_stride", split.where, lost)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _cut(split: QuestionSet, how: Tokenization, limit: int) -> list[str]:
    """Return the questions, the long ones cut to their first `limit` tokens."""
    texts = [question.question for question in split.questions]
    alone = replace(how, special=False, truncation=None)
    offsets = [entry.offsets for entry in alone.encode(texts)]
    long = [number for number, spans in enumerate(offsets) if len(spans) > limit]
    for number in long:
        texts[number] = texts[number][: offsets[number][limit - 1][1]]
    if long:
        log.warning("%s: %d questions are cut to %d tokens", split.where, len(long), limit)
    return texts


def _window(window: Any, question: Question) -> dict[str, Any]:
    """Return the columns of one window."""
    offsets = np.array(window.offsets, dtype=np.int32)
    inside = np.array([part == 1 for part in window.sequence_ids])
    offsets[~inside] = -1
    start, end = _place(offsets, inside, question.spans)
    return {
        "input_ids": window.ids,
        "token_type_ids": window.type_ids,
        "char_starts": offsets[:, 0],
        "char_ends": offsets[:, 1],
        "start": start,
        "end": end,
    }


def _place(
    offsets: NDArray[np.int32], inside: NDArray[np.bool_], spans: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return the first and last token of the first answer; (0, 0) if it is not wholly in the window."""
    tokens = np.flatnonzero(inside)
    if not spans or not len(tokens):
        return 0, 0
    first, last = spans[0]
    starts, ends = offsets[tokens, 0], offsets[tokens, 1]
    if first < starts[0] or last > ends[-1]:
        return 0, 0
    begin = int(np.searchsorted(starts, first, side="right")) - 1
    return int(tokens[begin]), int(tokens[np.searchsorted(ends, last, side="left")])


def _never_whole(questions: Sequence[Question], rows: Sequence[dict[str, Any]]) -> int:
    """Count the questions whose answer no window holds."""
    held = {row["question"] for row in rows if row["end"] > 0}
    return sum(bool(q.answers) and number not in held for number, q in enumerate(questions))
