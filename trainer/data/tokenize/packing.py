"""Cut token sequences for language modeling: pieces, evaluation windows, fill-in-the-middle.

Pure functions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint32]


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `end` of a sequence, of which the first `context` are read but not measured."""

    start: int
    end: int
    context: int


def windows(length: int, size: int, stride: int) -> Iterator[Window]:
    """Yield windows over `length` tokens, such that each token is measured in exactly one of them.

    A token is measured in the first window that holds it, with as much context as possible: at
    least `size - stride` tokens, except in the first window. `stride` is at most `size`.
    """
    measured = 0
    for start in range(0, length, stride):
        end = min(start + size, length)
        yield Window(start, end, measured - start)
        measured = end
        if end == length:
            return


def pieces(sequences: Sequence[Tokens], size: int) -> list[Tokens]:
    """Join all sequences and cut them every `size` tokens. The last piece may be shorter, of two at least."""
    whole = np.concatenate(sequences) if sequences else np.empty(0, dtype=np.uint32)
    cut = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [piece for piece in cut if len(piece) > 1]


@dataclass(frozen=True)
class FillInTheMiddle:
    """Rearranges texts, so that a model learns to fill a gap (Bavarian et al., arXiv:2207.14255).

    A text is cut at two places into prefix, middle and suffix, and becomes, with the sentinel tokens
    P, M and S, `P prefix S suffix M middle` (PSM) or `P S suffix M prefix middle` (SPM). Cuts are
    between tokens. Whether and where follows from the seed and the text alone, independent of when and in
    what order it is read.
    """

    prefix: int
    middle: int
    suffix: int
    rate: float
    spm_rate: float
    seed: int

    def apply(self, tokens: Tokens) -> Tokens:
        """Rearrange a text, or return it unchanged."""
        random = np.random.default_rng([self.seed, zlib.crc32(np.ascontiguousarray(tokens).data)])
        if random.random() >= self.rate:
            return tokens
        first, second = sorted(random.integers(0, len(tokens) + 1, 2).tolist())
        prefix, middle, suffix = tokens[:first], tokens[first:second], tokens[second:]
        if random.random() < self.spm_rate:
            parts = [[self.prefix, self.suffix], suffix, [self.middle], prefix, middle]
        else:
            parts = [[self.prefix], prefix, [self.suffix], suffix, [self.middle], middle]
        return np.concatenate([np.asarray(part, dtype=np.uint32) for part in parts])
