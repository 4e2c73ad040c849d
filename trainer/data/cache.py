"""The cache, which keeps results between runs: converted models, tokenized data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.schema import Data

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_root(data: Data) -> Path:
    """Return `data.cache_dir`, else `$XDG_CACHE_HOME/galley`, else `~/.cache/galley`; create it if need be.

    Raises `ConfigError` if it cannot be created.
    """
    if data.cache_dir is not None:
        folder = Path(data.cache_dir).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "galley"
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Raise `ConfigError` for a folder that cannot be created or written. A full disk is another failure."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        what = f"cannot be made or written: {error.strerror or error}"
        hint = "set data.cache_dir to a folder that you may write"
        raise ConfigError(Problem(f"the cache {folder}", what, hint)) from error
