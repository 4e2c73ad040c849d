"""Texts that are read while training: shuffled, mixed, packed, and resumable at any sample.

A position is JSON. It describes where the texts of the next sample are, not what they are: reading continues
from there, with the same samples as if it had never stopped. Every rank reads the same stream and
keeps its own samples, so that the samples of a step do not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galley.data.files import Documents, find_files, read_rows
from galley.data.roles import TEXT, column_names, data_folder
from galley.data.sampling import sources_of
from galley.errors import DataError, Problem
from galley.schema import Data
from trainer.assets import data_rows, is_embedded
from trainer.data.language import TextEncoder
from trainer.data.raw import hub_splits
from trainer.data.tokenize.packing import Tokens
from trainer.tasks.base import Sample

Position = Any
# The number of draws of a source that are made at once.
DRAWS = 1024


class Reader(Protocol):
    """Texts of one source, in an order that the epoch decides.

    Attributes:
        identity: what the texts are, for the fingerprint; JSON.
    """

    identity: Any

    def read(self, epoch: int, position: Position, count: int) -> tuple[list[str], Position]:
        """Return at most `count` texts from `position` (None: the first), and the position of the next."""
        ...


class FileReader:
    """Files in an order that is drawn anew for each epoch. A position is [file, row]."""

    def __init__(self, data: Data, seed: int) -> None:
        self.files = find_files(data_folder(data), "train")
        self.identity = [[path.name, path.stat().st_size, _head(path)] for path in self.files]
        self._data, self._seed, self._documents = data, seed, data.documents
        self._open: tuple[Any, Iterator[str]] | None = None

    def read(self, epoch: int, position: Position, count: int) -> tuple[list[str], Position]:
        number, row = position or [0, 0]
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.files)).tolist()
        texts_read: list[str] = []
        while number < len(order) and len(texts_read) < count:
            texts = self._texts(self.files[order[number]], [epoch, number, row])
            taken = list(islice(texts, count - len(texts_read)))
            texts_read += taken
            row += len(taken)
            self._open = ([epoch, number, row], texts)
            if len(texts_read) < count:
                number, row = number + 1, 0
        return texts_read, [number, row] if number < len(order) else None

    def _texts(self, path: Path, place: list[int]) -> Iterator[str]:
        """Return the open iterator if it is at this place, else open the file at row `place[2]`."""
        if self._open is not None and self._open[0] == place:
            return self._open[1]
        return _file_texts(path, self._data, self._documents, skip=place[2])


def _file_texts(path: Path, data: Data, documents: Documents, skip: int) -> Iterator[str]:
    """Yield the texts of a file. Raises `DataError` for a row without a text."""
    name = None
    for line, row in read_rows(path, documents, skip):
        if name is None:
            name = column_names(list(row), [TEXT], data, str(path))[TEXT.name]
        if not TEXT.accepts(row.get(name)):
            raise DataError(Problem(f"{path}:{line}", f"column '{name}': {row.get(name)!r} is not text"))
        yield row[name]


def _head(path: Path) -> str:
    """Return a hash of the file's beginning, which together with its size identifies it."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(1 << 16)).hexdigest()


class RowsReader:
    """Rows that are read by their number: embedded sets. A position is the next row."""

    def __init__(self, data: Data) -> None:
        rows = data_rows(data.name, "train")
        name = column_names(list(rows[0]), [TEXT], data, data.name)[TEXT.name]
        self._texts = [row[name] for row in rows]
        self.identity = hashlib.sha256("\0".join(self._texts).encode()).hexdigest()

    def read(self, epoch: int, position: Position, count: int) -> tuple[list[str], Position]:
        start = position or 0
        end = min(start + count, len(self._texts))
        return self._texts[start:end], end if end < len(self._texts) else None


class HubReader:
    """A set as the `datasets` library streams it. A position is the library's state.

    `load` returns the set as an iterable that is at its beginning.
    """

    def __init__(self, load: Callable[[], Any], data: Data) -> None:
        self._load, self._data = load, data
        self.identity = [data.name, data.subset, data.train_split]
        self._open: tuple[Position, Any, Iterator[Any]] | None = None

    def read(self, epoch: int, position: Position, count: int) -> tuple[list[str], Position]:
        if self._open is not None and self._open[0] == [epoch, position]:
            _, stored, rows = self._open
        else:
            stored = self._load()
            if position is not None:
                stored.load_state_dict(position)
            rows = iter(stored)
        taken = list(islice(rows, count))
        state = stored.state_dict() if len(taken) == count else None
        self._open = ([epoch, state], stored, rows)
        if not taken:
            return [], None
        name = column_names(list(taken[0]), [TEXT], self._data, self._data.name)[TEXT.name]
        return [row[name] for row in taken], state


class ShuffledTexts:
    """The texts of one source without end, `window` of them shuffled together at a time.

    A position is [epoch, window, where the window begins in the source, texts taken of it].
    """

    def __init__(self, reader: Reader, seed: int, window: int) -> None:
        self.identity = reader.identity
        self._reader, self._seed, self._window = reader, seed, window

    def texts(self, position: Position) -> Iterator[tuple[Position, str]]:
        """Yield each text with its own position. Raises `DataError` for a source without a text."""
        epoch, number, start, taken = position or [0, 0, None, 0]
        useful = position is not None
        while True:
            window, after = self._reader.read(epoch, start, self._window)
            order = np.random.default_rng([self._seed, epoch, number]).permutation(len(window))
            for index in range(taken, len(order)):
                text = window[order[index]]
                if text.strip():
                    useful = True
                    yield [epoch, number, start, index], text
            taken = 0
            if after is not None:
                number, start = number + 1, after
            elif useful:
                epoch, number, start = epoch + 1, 0, None
            else:
                raise DataError(Problem("data.streaming", "the source has no text"))


class MixedTexts:
    """Texts of several sources, each drawn with the probability of its weight.

    A position is [texts drawn, the position of the next text of each source].
    """

    def __init__(self, sources: Sequence[ShuffledTexts], weights: Sequence[float], seed: int) -> None:
        self.identity = [[source.identity for source in sources], list(weights)]
        self._sources, self._seed = sources, seed
        self._shares = np.asarray(weights) / sum(weights)

    def texts(self, position: Position) -> Iterator[tuple[Position, str]]:
        """Yield each text with its own position."""
        drawn, places = position or [0, [None] * len(self._sources)]
        streams = [source.texts(place) for source, place in zip(self._sources, places, strict=True)]
        heads = [next(stream) for stream in streams]
        while True:
            # Seeded per block of draws, so that a resumed stream can begin at any draw.
            random = np.random.default_rng([self._seed, drawn // DRAWS])
            for chosen in random.choice(len(heads), DRAWS, p=self._shares)[drawn % DRAWS :]:
                yield [drawn, [head[0] for head in heads]], heads[chosen][1]
                heads[chosen] = next(streams[chosen])
                drawn += 1


class SameLength:
    """The lengths of samples that all have `size` tokens, as if in an array."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        return np.full(len(indices), self.size, dtype=np.int32)


class SampleStream:
    """Pieces of the joined texts, of `data.max_length` tokens each, numbered from 0, without end.

    Samples must be requested in rising order; earlier ones are forgotten. A position is [position of a
    text, tokens of it that were used].
    """

    def __init__(self, texts: ShuffledTexts | MixedTexts, encoder: TextEncoder, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._texts, self._encoder = texts, encoder
        self._size = encoder.preparation.size
        self.lengths: Any = SameLength(self._size)
        self.seek(0, None)

    def __len__(self) -> int:
        raise TypeError("a stream has no end")

    def seek(self, index: int, position: Position) -> None:
        """Continue such that sample `index` is the one at `position`."""
        self._next, self._position = index, position
        self._pieces = self._read(position)
        self._held: dict[int, Tokens] = {}

    def position(self, index: int) -> Position:
        """Return where sample `index` begins. No sample from there on may have been requested."""
        while self._next < index:
            self._advance()
        if self._next != index:
            raise ValueError(f"sample {self._next - 1} was read before the position of {index} was asked for")
        return self._position

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        while self._next <= max(indices):
            self._advance()
        self._held = {index: piece for index, piece in self._held.items() if index >= min(indices)}
        return [{"input_ids": self._held[index], "context": 0} for index in indices]

    def _advance(self) -> None:
        piece, self._position = next(self._pieces)
        self._held[self._next] = piece
        self._next += 1

    def _read(self, position: Position) -> Iterator[tuple[Tokens, Position]]:
        """Yield each piece with the position of the next one."""
        place, used = position or [None, 0]
        held: deque[tuple[Position, Tokens]] = deque()
        total = 0
        for text, tokens in self._encoder.pairs(self._texts.texts(place), training=True):
            held.append((text, tokens))
            total += len(tokens) - (used if len(held) == 1 else 0)
            while total > self._size:  # one more token shows where the next piece begins
                piece, used = _take(held, used, self._size)
                total -= self._size
                yield piece, [held[0][0], used]


def _take(held: deque[tuple[Position, Tokens]], used: int, size: int) -> tuple[Tokens, int]:
    """Return the next `size` tokens, and how many tokens of the first remaining text are used then.

    `used`: tokens of the first text that were used before.
    """
    parts = []
    while size:
        tokens = held[0][1]
        parts.append(tokens[used : used + size])
        size -= len(parts[-1])
        used += len(parts[-1])
        if used == len(tokens):
            held.popleft()
            used = 0
    return np.concatenate(parts), used


def open_stream(data: Data, encoder: TextEncoder, seed: int) -> SampleStream:
    """Return the training samples of the recipe's data, which are not read yet."""
    texts = [ShuffledTexts(_reader(source, seed), seed, data.shuffle_buffer) for source in sources_of(data)]
    weights = [source.weight for source in data.mix]
    mixed = MixedTexts(texts, weights, seed) if data.mix else texts[0]
    settings = [mixed.identity, seed, data.shuffle_buffer, data.documents, encoder.identity]
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return SampleStream(mixed, encoder, fingerprint)


def first_texts(data: Data, seed: int, count: int) -> list[str]:
    """Return the first texts of a stream, equally many of each source. The order follows from the seed."""
    sources = sources_of(data)
    share = max(1, count // len(sources))
    return [text for source in sources for text in _first(_reader(source, seed), share)]


def _first(reader: Reader, count: int) -> list[str]:
    """Return the first texts of one source."""
    texts, position = reader.read(0, None, count)
    while len(texts) < count and position is not None:
        more, position = reader.read(0, position, count - len(texts))
        texts += more
    return texts


def _reader(data: Data, seed: int) -> Reader:
    """Return the reader of one source."""
    if data.path is not None:
        return FileReader(data, seed)
    if is_embedded(data.name):
        return RowsReader(data)
    alone = replace(data, hold_out=1, streaming=False)  # only the set's training split is read
    return HubReader(lambda: hub_splits(alone, streaming=True)["train"][1], data)
