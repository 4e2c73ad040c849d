"""Composition reads the shipped files once for all tests of a process, as for the trials of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader

from galley.config import hydra_bridge
from galley.config.hydra_bridge import Composed, Loader
from galley.config.recipe_file import RecipeFile


@pytest.fixture(autouse=True, scope="session")
def _shipped_files_are_read_once() -> Iterator[None]:
    """Files of a user's folder, which a test may change, are read anew each time."""
    shipped = Composed()

    def loader(
        inner: ConfigLoader, user_dirs: tuple[Path, ...], composed: Composed, recipe_file: RecipeFile | None
    ) -> Loader:
        only_shipped = not user_dirs and recipe_file is None
        return Loader(inner, user_dirs, shipped if only_shipped else composed, recipe_file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra_bridge, "Loader", loader)
        yield
