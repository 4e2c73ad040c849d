"""Where made things are kept between runs: converted models, tokenized data."""

from __future__ import annotations

import os
from pathlib import Path

from galley.schema import Data


def cache_root(data: Data) -> Path:
    """`data.cache_dir`, else `$XDG_CACHE_HOME/galley`, else `~/.cache/galley`."""
    if data.cache_dir is not None:
        return Path(data.cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "galley"
