"""Backends, which draw the points of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from galley.registry import BACKENDS
from hpo.backends.base import HpoBackend, Search
from hpo.study.values import Trial


def make_backend(search: Search, trials: Sequence[Trial]) -> HpoBackend:
    """Return the backend that `hpo.kind` names, with all trials so far.

    Raises `ConfigError` if there is none, its packages are missing, or it cannot express the search.
    """
    backend: type[HpoBackend] = BACKENDS.load(search.settings.kind)
    return backend(search, trials)
