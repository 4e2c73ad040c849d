"""Assets that are converted once, into a folder of the cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from galley.errors import ConfigError, Problem
from trainer.data.cache import cache_errors


def made_once(target: Path, write: Callable[[Path], None]) -> Path:
    """Return `target`, filled by `write` on first use. Safe if several processes ask at once."""
    if target.exists():
        return target
    with cache_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        write(partial)
        partial.chmod(0o755)  # mkdtemp makes 0700, which other users of a shared cache could not read
        partial.rename(target)  # in one step: other processes see the whole folder or none
    except OSError:
        # Another process may have been faster: a folder that is not empty cannot be replaced by `rename`.
        if not target.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def package_folder(package: str, distribution: str, name: str) -> Path:
    """Return the folder of an installed package, which is found without being imported.

    `name` is the embedded asset that needs it. Raises `ConfigError` if it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        what = f"the package {distribution} is not installed"
        hint = "install Galley's extra `embedded` (make setup), or choose another model"
        raise ConfigError(Problem(f"embedded:{name}", what, hint))
    return Path(spec.origin).parent
