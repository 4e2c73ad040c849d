"""Detect samples for which a tokenizer returns no token."""

from __future__ import annotations

from collections.abc import Sequence

from galley.counting import counted
from galley.errors import DataError, Problem


def check_lengths(where: str, lengths: Sequence[int]) -> None:
    """Raise `DataError` for samples without a token: no model can compute anything from them.

    A tokenizer with special tokens returns some for any text.
    """
    empty = [number for number, length in enumerate(lengths, 1) if length == 0]
    if empty:
        what = (
            f"{counted(len(empty), 'sample')} without a token: number {empty[0]}{' …' if empty[1:] else ''}"
        )
        hint = "remove empty texts, or choose a tokenizer that puts special tokens around a text"
        raise DataError(Problem(where, what, hint))
