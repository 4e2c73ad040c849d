"""Numbers in JSON files: JSON has no NaN and no infinity, which stand there as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def standard(value: Any) -> Any:
    """The value as strict JSON has it: "NaN", "Infinity" and "-Infinity" for floats that are not finite.

    Pydantic reads these words back where a float is expected.
    """
    if isinstance(value, Mapping):
        return {name: standard(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def row_to_json(row: Mapping[str, Any]) -> str:
    """A row of `metrics.jsonl` with its newline."""
    return json.dumps(standard(row), allow_nan=False) + "\n"


def row_from_json(line: str | bytes) -> dict[str, Any]:
    """The inverse of `row_to_json`; bare NaN of older files is read, too."""
    row: dict[str, Any] = json.loads(line)
    return {name: _NAMES.get(item, item) if isinstance(item, str) else item for name, item in row.items()}
