"""Tokenize sources and targets, each by itself: `input_ids`, `labels`, and the text of the `target`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from galley.data.roles import Table
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.empty import check_lengths
from trainer.data.tokenize.encoding import Tokenization, Tokens, encode_all, tokenization

log = logging.getLogger("galley")

FORMAT = 2
SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.uint32())), ("labels", pa.list_(pa.uint32())), ("target", pa.string())]
)


@dataclass(frozen=True)
class Translation:
    """All that decides how a source and its target become tokens.

    Attributes:
        prefix: text before every source.
        end: the token after every target, if the tokenizer does not add it itself.
        source_length, target_length: the most tokens.
    """

    sources: Tokenization
    targets: Tokenization
    prefix: str
    end: int
    source_length: int
    target_length: int


def translation(tokenizer: Any, prefix: str, end: int, source_length: int, target_length: int) -> Translation:
    """Return how a tokenizer reads sources and targets."""
    sources, targets = (tokenization(tokenizer, length) for length in (source_length, target_length))
    return Translation(sources, targets, prefix, end, source_length, target_length)


def source_target(table: Table, how: Translation, workers: int, cache: Path) -> ArrowDataset:
    """Return the table's `source` and `target`, from the cache or tokenized now by `workers` processes."""
    key = digest({"format": FORMAT, **asdict(how)}, [table.columns["source"], table.columns["target"]])
    return stored(key, lambda: _encode(table, how, workers), cache)


def _encode(table: Table, how: Translation, workers: int) -> pa.Table:
    targets = table.columns["target"]
    prefixed = [how.prefix + text for text in table.columns["source"]]
    ids = _tokens(table, "sources", prefixed, how.sources, workers)
    check_lengths(table.where, [len(tokens) for tokens in ids])
    labels = [_ended(tokens, how) for tokens in _tokens(table, "targets", targets, how.targets, workers)]
    return pa.table([ids, labels, targets], schema=SCHEMA)


def _tokens(table: Table, what: str, texts: Sequence[str], how: Tokenization, workers: int) -> list[Tokens]:
    """Tokenize one column, and log how many texts are truncated."""
    sequences = [tokens for _, tokens in encode_all(texts, str, how, workers)]
    longest = how.truncation.length if how.truncation else None
    full = sum(len(tokens) == longest for tokens in sequences)
    if full:
        log.warning("%s: %d %s reach %d tokens, where they are truncated", table.where, full, what, longest)
    return sequences


def _ended(tokens: Tokens, how: Translation) -> Tokens:
    """Add the token that ends a text, if the tokenizer does not add it itself."""
    if tokens[-1:] == [how.end]:
        return tokens
    room = how.target_length - 1
    cut = how.targets.truncation
    kept = tokens[max(0, len(tokens) - room) :] if cut and cut.side == "left" else tokens[:room]
    return [*kept, how.end]
