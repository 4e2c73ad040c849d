"""Turn texts into token numbers, in this process or in several."""

from __future__ import annotations

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from galley.system.pdeathsig import die_with_parent

Item = TypeVar("Item")
Tokens = list[int]

CHUNK = 256
# Chunks that wait per worker: enough that none is idle while results are taken in order.
AHEAD = 3

_held: Tokenization | None = None


@dataclass(frozen=True)
class Truncation:
    """How a text that is too long is shortened.

    Attributes:
        length: the most tokens, special ones included.
        side: `right` keeps the beginning of a text, `left` its end.
        strategy: for pairs, `longest_first` or `only_second`.
        stride: tokens that two neighboring windows of a text share.
    """

    length: int
    side: str
    strategy: str = "longest_first"
    stride: int = 0


@dataclass(frozen=True)
class Tokenization:
    """All that decides the tokens of a text.

    The tokens are made from these values alone, so that no setting of a tokenizer can be missing in a key
    that has `identity`.

    Attributes:
        serialized: the tokenizer as in `tokenizer.json`, without truncation and padding.
        special: whether the tokenizer puts its special tokens around a text.
        split_special: whether special tokens inside a text are read as ordinary text.
        truncation: None keeps texts whole.
    """

    serialized: str
    special: bool
    split_special: bool
    truncation: Truncation | None

    @property
    def identity(self) -> dict[str, Any]:
        """Return all values, as JSON."""
        return asdict(self)

    def encode(self, texts: Sequence[Any]) -> list[Any]:
        """Return the encodings (ids, offsets, …) of texts, or of pairs of texts."""
        encodings: list[Any] = self.backend.encode_batch(list(texts), add_special_tokens=self.special)
        return encodings

    def ids(self, texts: Sequence[str]) -> list[Tokens]:
        """Return only the token numbers, which is faster."""
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=self.special)
        return [entry.ids for entry in encoded]

    @cached_property
    def backend(self) -> Any:
        """Return a tokenizer that is made of these values alone."""
        from tokenizers import Tokenizer

        backend: Any = Tokenizer.from_str(self.serialized)
        backend.encode_special_tokens = self.split_special
        if self.truncation is not None:
            cut = self.truncation
            backend.enable_truncation(
                cut.length, stride=cut.stride, strategy=cut.strategy, direction=cut.side
            )
        return backend


def tokenization(
    tokenizer: Any,
    length: int | None = None,
    special: bool = True,
    strategy: str = "longest_first",
    stride: int = 0,
) -> Tokenization:
    """Return how a fast tokenizer of Transformers reads texts, at most `length` tokens of each."""
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    # These are left over from the tokenizer's last call; the caller states what is needed.
    del backend["truncation"], backend["padding"]
    cut = None if length is None else Truncation(length, tokenizer.truncation_side, strategy, stride)
    return Tokenization(json.dumps(backend), special, bool(tokenizer.split_special_tokens), cut)


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def encode_all(
    items: Iterable[Item], text_of: Callable[[Item], str], how: Tokenization, workers: int = 0
) -> Iterator[tuple[Item, Tokens]]:
    """Yield each item with the tokens of its text, in order.

    With `workers`, that many processes tokenize the texts, at most a few chunks ahead of the reader,
    so that a stream without an end can be read.
    """
    if workers == 0:
        for chunk in chunks(items):
            yield from zip(chunk, how.ids([text_of(item) for item in chunk]), strict=True)
        return
    # Not forked: this process has threads, and may hold a process group.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (how,)) as pool:
        waiting: deque[tuple[list[Item], Future[list[Tokens]]]] = deque()
        try:
            for chunk in chunks(items):
                waiting.append((chunk, pool.submit(_work, [text_of(item) for item in chunk])))
                if len(waiting) > AHEAD * workers:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _start(how: Tokenization) -> None:
    """Prepare a worker process: it ends with its parent, and keeps the tokenization."""
    die_with_parent()
    globals()["_held"] = how


def _work(texts: list[str]) -> list[Tokens]:
    """Tokenize a chunk in a worker process."""
    assert _held is not None, "_start comes first"  # noqa: S101
    return _held.ids(texts)
