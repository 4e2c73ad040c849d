"""Where the checkout is. Galley runs from its checkout, so everything else is relative to it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
RECIPES = ROOT / "recipes"


def user_cache() -> Path:
    """What is kept between runs: `$XDG_CACHE_HOME/galley`, else `~/.cache/galley`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "galley"
