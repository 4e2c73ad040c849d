"""Packages that the ranks of a run import and that this environment lacks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from galley.errors import Problem
from galley.paths import install
from galley.registry import TRACKERS
from galley.schema import Recipe

ENGINES = ("torch", "transformers", "accelerate", "datasets", "safetensors")


def missing_packages(recipe: Recipe) -> Iterator[Problem]:
    """Yield what a run needs here, with the command that installs it. Imports none of the packages."""
    engines = [name for name in ENGINES if find_spec(name) is None]
    if engines:
        what = f"{', '.join(engines)}: not installed, and nothing can be trained without"
        yield Problem("packages", what, f"install them into Galley's environment: {install('train')}")
    tracker = recipe.tracker.kind
    library = TRACKERS.libraries.get(tracker)
    if library is not None and find_spec(library) is None:
        hint = f"install it into Galley's environment: pip install {library}; or choose tracker=none"
        yield Problem(f"tracker={tracker}", f"{library} is not installed", hint)
    if recipe.train.energy and find_spec("codecarbon") is None:
        yield Problem("train.energy", "CodeCarbon is not installed", install("energy"))
