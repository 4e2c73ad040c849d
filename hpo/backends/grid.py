"""`hpo=grid`: every point of a finite space once, in order."""

from __future__ import annotations

from collections.abc import Sequence

from galley.errors import ConfigError, Problem
from hpo.backends.base import Search
from hpo.backends.random import TellingBackend
from hpo.space.points import Grid, size_of
from hpo.study.values import Params, SpaceDim, Trial


class GridBackend(TellingBackend):
    """Visits every point.

    The last dimension changes fastest. A point lacks the dimensions that do not exist at it.
    """

    name = "grid"

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        """Make the grid. Raises `ConfigError` if a dimension has infinitely many values."""
        check_finite(search.space)
        super().__init__(search, trials)
        self._grid = Grid(search.space, search.points)

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        if fixed is not None:
            return fixed
        return self._grid.point(number // self.search.settings.repeats)


def check_finite(space: Sequence[SpaceDim]) -> None:
    """Raise `ConfigError` for every dimension that a grid cannot enumerate."""
    hint = "give it a step, or choices; or choose hpo=random or hpo=optuna"
    problems = [
        Problem(f"hpo.space.{dim.key}", "is continuous: a grid cannot have all its values", hint)
        for dim in space
        if size_of(dim) is None
    ]
    if problems:
        raise ConfigError(problems)
