"""Two texts a sample, tokenized each by itself: `input_ids` of both, and `first_length` of the first."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from galley.tables import Table
from trainer.data.empty import check_lengths
from trainer.data.encoding import Tokenization, tokenization
from trainer.data.store import ArrowDataset, digest, stored

log = logging.getLogger("galley")

FORMAT = 2
SCHEMA = pa.schema([("input_ids", pa.list_(pa.uint32())), ("first_length", pa.int32())])


def text_pairs(table: Table, tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """The pairs of the table's two columns, each text of at most `max_length` tokens."""
    how, columns = tokenization(tokenizer, max_length), list(table.columns.values())
    key = digest({"format": FORMAT, **how.identity}, columns)
    return stored(key, lambda: _encode(table, how, max_length), cache)


def _encode(table: Table, how: Tokenization, max_length: int) -> pa.Table:
    first, second = ([entry.ids for entry in how.encode(column)] for column in table.columns.values())
    for ids in (first, second):
        check_lengths(table.where, [len(tokens) for tokens in ids])
    full = sum(len(ids) == max_length for ids in [*first, *second])
    if full:
        log.info("%s: %d texts reach data.max_length=%d tokens", table.where, full, max_length)
    ids = [a + b for a, b in zip(first, second, strict=True)]
    return pa.table([ids, [len(a) for a in first]], schema=SCHEMA)
