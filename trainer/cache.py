"""Where made things are kept between runs: converted models, tokenized data."""

from __future__ import annotations

from pathlib import Path

from galley.paths import user_cache
from galley.schema import Data


def cache_root(data: Data) -> Path:
    """`data.cache_dir`, else the user's cache."""
    return user_cache() if data.cache_dir is None else Path(data.cache_dir).expanduser()
