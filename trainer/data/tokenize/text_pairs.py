"""Two texts per sample, or three with a hard negative, each tokenized by itself.

`input_ids` of all, `first_length` and `second_length` of the first two, and `source`: the number of the
source in the mixture, 0 if it does not matter.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from galley.data.roles import Table
from trainer.data.raw import SOURCE
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.empty import check_lengths
from trainer.data.tokenize.encoding import Tokenization, tokenization

log = logging.getLogger("galley")

FORMAT = 3
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.uint32())),
        ("first_length", pa.int32()),
        ("second_length", pa.int32()),
        ("source", pa.int32()),
    ]
)


def text_pairs(table: Table, tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """Return the texts of each row, each of at most `max_length` tokens."""
    how, names = tokenization(tokenizer, max_length), list(table.columns)
    key = digest({"format": FORMAT, "columns": names, **how.identity}, list(table.columns.values()))
    return stored(key, lambda: _encode(table, how, max_length), cache)


def _encode(table: Table, how: Tokenization, max_length: int) -> pa.Table:
    columns = table.columns
    first, second = (_tokens(columns[name], how, table.where) for name in ("text", "partner"))
    third = _tokens(columns.get("negative", [None] * len(table)), how, table.where)
    full = sum(len(ids) == max_length for ids in [*first, *second, *third])
    if full:
        log.info("%s: %d texts reach data.max_length=%d tokens", table.where, full, max_length)
    ids = [[*a, *b, *c] for a, b, c in zip(first, second, third, strict=True)]
    lengths = ([len(tokens) for tokens in part] for part in (first, second))
    return pa.table([ids, *lengths, columns.get(SOURCE, [0] * len(table))], schema=SCHEMA)


def _tokens(texts: list[str | None], how: Tokenization, where: str) -> list[Any]:
    """Return the tokens of each text; an empty list if there is no text."""
    encoded = [entry.ids for entry in how.encode([text for text in texts if text is not None])]
    check_lengths(where, [len(tokens) for tokens in encoded])
    rest = iter(encoded)
    return [[] if text is None else next(rest) for text in texts]
