"""Labeled sentences and pairs of sentences, tokenized: `input_ids`, `token_type_ids`, `label`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from galley.data.splits import Split
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.empty import check_lengths
from trainer.data.tokenize.encoding import Tokenization, tokenization

log = logging.getLogger("galley")

FORMAT = 4
TOKENS = [("input_ids", pa.list_(pa.uint32())), ("token_type_ids", pa.list_(pa.uint8()))]
LABEL_TYPES = {int: pa.int32(), float: pa.float32(), list: pa.list_(pa.int32())}


def content_key(split: Split, how: Tokenization) -> str:
    """Return the key of all that decides the tokens: texts, labels, tokenizer, truncation."""
    return digest({"format": FORMAT, **how.identity}, [*split.texts, split.labels])


def tokenized(split: Split, tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """Return the split from the cache, or tokenize it and put it there; see `trainer.data.store`."""
    how = tokenization(tokenizer, max_length)
    return stored(content_key(split, how), lambda: _encode(split, how, max_length), cache)


def _encode(split: Split, how: Tokenization, max_length: int) -> pa.Table:
    encoded = how.encode(split.texts[0] if len(split.texts) == 1 else list(zip(*split.texts, strict=True)))
    check_lengths(split.where, [len(entry) for entry in encoded])
    full = sum(len(entry) == max_length for entry in encoded)
    if full:
        log.info("%s: %d samples reach data.max_length=%d tokens", split.where, full, max_length)
    columns = [[entry.ids for entry in encoded], [entry.type_ids for entry in encoded], split.labels]
    label = ("label", LABEL_TYPES[type(split.labels[0])])
    return pa.table(columns, schema=pa.schema([*TOKENS, label]))
