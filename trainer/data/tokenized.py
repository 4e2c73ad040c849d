"""Labeled sentences and pairs of sentences, tokenized: `input_ids`, `token_type_ids`, `label`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from galley.datacheck import Split
from trainer.data.store import ArrowDataset, digest, stored, tokenizer_settings

log = logging.getLogger("galley")

FORMAT = 3
TOKENS = [("input_ids", pa.list_(pa.uint32())), ("token_type_ids", pa.list_(pa.uint8()))]
LABEL_TYPES = {int: pa.int32(), float: pa.float32(), list: pa.list_(pa.int32())}


def content_key(split: Split, tokenizer: Any, max_length: int) -> str:
    """Of all that decides the tokens: texts, labels, tokenizer, truncation."""
    settings = {"format": FORMAT, "max_length": max_length, "tokenizer": tokenizer_settings(tokenizer)}
    return digest(settings, [*split.texts, split.labels])


def tokenized(split: Split, tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """The split from the cache, or tokenized now and put there; see `trainer.data.store`."""
    key = content_key(split, tokenizer, max_length)
    return stored(key, lambda: _encode(split, tokenizer, max_length), cache)


def _encode(split: Split, tokenizer: Any, max_length: int) -> pa.Table:
    encoded = tokenizer(*split.texts, truncation=True, max_length=max_length, return_token_type_ids=True)
    full = sum(len(ids) == max_length for ids in encoded["input_ids"])
    if full:
        log.info("%s: %d samples reach data.max_length=%d tokens", split.where, full, max_length)
    columns = [encoded["input_ids"], encoded["token_type_ids"], split.labels]
    label = ("label", LABEL_TYPES[type(split.labels[0])])
    return pa.table(columns, schema=pa.schema([*TOKENS, label]))
