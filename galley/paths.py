"""Where the checkout is. Galley runs from its checkout, so everything else is relative to it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
RECIPES = ROOT / "recipes"
