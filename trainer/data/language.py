"""Texts prepared for language modeling, and kept in the cache.

A sample has `input_ids` and `context`: the number of tokens at its start that are read but not measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from galley.data.roles import Table
from galley.errors import ConfigError, Problem
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.encoding import encode_all, tokenization
from trainer.data.tokenize.packing import FillInTheMiddle, Tokens, Window, pieces, windows

log = logging.getLogger("galley")

FORMAT = 2
SCHEMA = pa.schema([("input_ids", pa.list_(pa.uint32())), ("context", pa.int32())])


@dataclass(frozen=True)
class Preparation:
    """How texts become samples.

    Attributes:
        size: the most tokens of a sample.
        packing: whether texts are joined; otherwise each is a sample, truncated.
        separator: the token after every text; None for no token.
        special: whether the tokenizer puts its special tokens around a text.
        stride: tokens between the starts of evaluation windows.
        first: the token before every text (BOS); None for no token.
        side: for a text that is not packed and too long: `right` keeps the beginning, `left` the end.
    """

    size: int
    packing: bool
    separator: int | None
    special: bool
    stride: int
    fim: FillInTheMiddle | None = None
    first: int | None = None
    side: str = "right"

    def cut(self, tokens: Tokens) -> Tokens:
        """Return at most `size` tokens of a text that is not packed."""
        return tokens[-self.size :] if self.side == "left" else tokens[: self.size]


class TextEncoder:
    """Turns texts into token sequences, as a preparation defines it."""

    def __init__(self, tokenizer: Any, preparation: Preparation, workers: int) -> None:
        self.preparation = preparation
        self.workers = workers
        self._how = tokenization(tokenizer, special=preparation.special)

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that decides the tokens of a text, as JSON."""
        return {"format": FORMAT, "tokens": self._how.identity, **asdict(self.preparation)}

    def sequences(self, texts: Iterable[str], training: bool) -> Iterator[Tokens]:
        """Yield the sequence of each text."""
        for _, tokens in self.pairs(((text, text) for text in texts), training):
            yield tokens

    def pairs(self, items: Iterable[tuple[Any, str]], training: bool) -> Iterator[tuple[Any, Tokens]]:
        """Yield items that carry a text, each with the text's sequence."""
        encoded = encode_all(items, lambda item: item[1], self._how, self.workers)
        for (item, _), tokens in encoded:
            yield item, self._finished(np.asarray(tokens, dtype=np.uint32), training)

    def _finished(self, tokens: Tokens, training: bool) -> Tokens:
        preparation = self.preparation
        if training and preparation.fim is not None:
            tokens = preparation.fim.apply(tokens)
        if preparation.first is not None:
            tokens = np.insert(tokens, 0, np.uint32(preparation.first))
        if preparation.separator is not None:
            tokens = np.append(tokens, np.uint32(preparation.separator))
        return tokens


def training_samples(table: Table, encoder: TextEncoder, cache: Path) -> ArrowDataset:
    """Return pieces of the joined texts, or one truncated sample per text."""
    return stored(_key(table, encoder, "train"), lambda: _training(table, encoder), cache)


def evaluation_windows(table: Table, encoder: TextEncoder, cache: Path) -> ArrowDataset:
    """Return sliding windows over the joined texts, or over each text that is not packed."""
    return stored(_key(table, encoder, "eval"), lambda: _evaluation(table, encoder), cache)


def _key(table: Table, encoder: TextEncoder, split: str) -> str:
    return digest({"split": split, **encoder.identity}, [table.columns["text"]])


def _training(table: Table, encoder: TextEncoder) -> pa.Table:
    sequences, size = _sequences(table, encoder, training=True), encoder.preparation.size
    if encoder.preparation.packing:
        samples = pieces(sequences, size)
    else:
        longer = sum(len(tokens) > size for tokens in sequences)
        if longer:
            log.warning("%s: %d texts are longer than %d tokens: truncated", table.where, longer, size)
        samples = [encoder.preparation.cut(tokens) for tokens in sequences if len(tokens) > 1]
    return _table(table, samples, [0] * len(samples))


def _evaluation(table: Table, encoder: TextEncoder) -> pa.Table:
    preparation = encoder.preparation
    sequences = _sequences(table, encoder, training=False)
    if preparation.packing:
        sequences = [np.concatenate(sequences)]
    samples, contexts = [], []
    for tokens in sequences:
        for window in windows(len(tokens), preparation.size, preparation.stride):
            if _is_measured(window):
                samples.append(tokens[window.start : window.end])
                contexts.append(window.context)
    return _table(table, samples, contexts)


def _is_measured(window: Window) -> bool:
    """Return whether the window predicts a token. Nothing predicts the first token of a window."""
    return window.end - window.start > max(1, window.context)


def _sequences(table: Table, encoder: TextEncoder, training: bool) -> list[Tokens]:
    """Encode the texts that are not empty."""
    texts = [text for text in table.columns["text"] if text.strip()]
    blank = len(table) - len(texts)
    if blank:
        log.warning("%s: %d empty texts are left out", table.where, blank)
    sequences = list(encoder.sequences(texts, training))
    log.info("%s: %d texts, %d tokens", table.where, len(texts), sum(map(len, sequences)))
    return sequences


def _table(table: Table, samples: list[Tokens], contexts: list[int]) -> pa.Table:
    """Return the samples as an Arrow table. Raises `ConfigError` if there are none."""
    if not samples:
        raise ConfigError(Problem(table.where, "has no text of two tokens"))
    offsets = np.cumsum([0, *map(len, samples)], dtype=np.int32)
    ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(samples)))
    return pa.table([ids, pa.array(contexts, pa.int32())], schema=SCHEMA)
