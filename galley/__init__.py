"""Galley's kernel: compose a recipe, seal it, describe the run folder. Imports no torch."""

__version__ = "0.1.0"
