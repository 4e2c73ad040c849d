"""Galley's kernel: compose a recipe, seal it, describe the run folder. Imports no torch."""

from pathlib import Path

__version__ = "0.1.0"

# In site-packages this file stands alone, and the modules are in the program that the wheel carries.
_INSTALLED = Path(__file__).with_name("_program") / "galley"
if _INSTALLED.is_dir():
    __path__ = [str(_INSTALLED)]
