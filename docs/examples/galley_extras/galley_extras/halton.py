"""A sweep backend that covers the space evenly: Halton's sequence (1960)."""

from __future__ import annotations

from itertools import islice
from typing import Any

from hpo.backends.random import TellingBackend
from hpo.space.points import size_of, values_of
from hpo.study.values import Params, SpaceDim

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


class HaltonBackend(TellingBackend):
    """Dimension i has the radical inverse of the trial's number in base PRIMES[i]."""

    name = "halton"

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        if fixed is not None:
            return fixed
        params: Params = {}
        for dim, base in zip(self.search.space, PRIMES, strict=False):
            if dim.is_active(params):
                params[dim.key] = value_at(dim, radical_inverse(number + 1, base))
        return params


def radical_inverse(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored behind the point: 6 is 110 in base 2, and gives 0.011."""
    value, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        value += digit * weight
    return value


def value_at(dim: SpaceDim, share: float) -> Any:
    """The value at `share` (0 to 1) of the way through a dimension."""
    size = size_of(dim)
    if size is not None:
        return next(islice(values_of(dim), int(share * size), None))
    low, high = dim.bounds
    return low * (high / low) ** share if dim.log else low + share * (high - low)
