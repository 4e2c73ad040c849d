"""Samples of which a tokenizer leaves nothing."""

from __future__ import annotations

from collections.abc import Sequence

from galley.data.files import count
from galley.errors import DataError, Problem


def check_lengths(where: str, lengths: Sequence[int]) -> None:
    """Raises `DataError` for samples without a token: no model computes anything from none.

    A tokenizer with special tokens makes some of any text.
    """
    empty = [number for number, length in enumerate(lengths, 1) if length == 0]
    if empty:
        what = f"{count(len(empty), 'sample')} without a token: number {empty[0]}{' …' if empty[1:] else ''}"
        hint = "remove empty texts, or choose a tokenizer that puts special tokens around a text"
        raise DataError(Problem(where, what, hint))
