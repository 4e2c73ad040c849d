"""Texts to token numbers, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from galley.lifetime import die_with_parent

Item = TypeVar("Item")
Tokens = list[int]

CHUNK = 256
# Chunks that wait, for each worker: enough that none is idle while results are taken in order.
AHEAD = 3

_backend: Any = None


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def encode_all(
    items: Iterable[Item],
    text_of: Callable[[Item], str],
    tokenizer: Any,
    special: bool,
    workers: int = 0,
    max_length: int | None = None,
) -> Iterator[tuple[Item, Tokens]]:
    """Each item with the tokens of its text, in order, at most `max_length` of them.

    `special`: with the tokens that the tokenizer puts around a text. With `workers` the texts are
    tokenized by as many processes, at most a few chunks ahead of what is taken, so that a stream
    without an end can be read.
    """
    backend = _copy(tokenizer.backend_tokenizer.to_str(), max_length)
    if workers == 0:
        for chunk in chunks(items):
            yield from zip(chunk, encode(backend, [text_of(item) for item in chunk], special), strict=True)
        return
    # Not forked: this process has threads, and may hold a process group.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (backend.to_str(), max_length)) as pool:
        waiting: deque[tuple[list[Item], Future[list[Tokens]]]] = deque()
        try:
            for chunk in chunks(items):
                waiting.append((chunk, pool.submit(_work, [text_of(item) for item in chunk], special)))
                if len(waiting) > AHEAD * workers:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def encode(backend: Any, texts: Sequence[str], special: bool) -> list[Tokens]:
    return [entry.ids for entry in backend.encode_batch_fast(texts, add_special_tokens=special)]


def _copy(serialized: str, max_length: int | None) -> Any:
    """A tokenizer that truncates as is wanted here, whatever its owner does with the original."""
    from tokenizers import Tokenizer

    backend: Any = Tokenizer.from_str(serialized)
    backend.no_padding()
    backend.no_truncation()
    if max_length is not None:
        backend.enable_truncation(max_length)
    return backend


def _start(serialized: str, max_length: int | None) -> None:
    die_with_parent()
    globals()["_backend"] = _copy(serialized, max_length)


def _work(texts: list[str], special: bool) -> list[Tokens]:
    return encode(_backend, texts, special)
