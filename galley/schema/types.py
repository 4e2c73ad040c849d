"""Types that several parts of a recipe share."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["fp32", "bf16", "fp16"]
OffloadDevice = Literal["none", "cpu", "nvme"]
MAX_PORT = 65535

_DAYS = re.compile(r"(\d+)-(\d\d?)(?::(\d\d))?(?::(\d\d))?")


def minutes_of(value: object) -> object:
    """Minutes of a time as Slurm writes it, rounded up: `2-12:00:00` is 3600. Other values stay.

    Only with days: YAML reads an unquoted `12:30:00` as the number 45000.
    """
    found = _DAYS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) + (seconds > 0)


Minutes = Annotated[int, Field(gt=0), BeforeValidator(minutes_of)]
