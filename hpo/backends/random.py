"""`hpo=random`: each point is drawn by itself, from the seed and the number of its trial."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice

from hpo import pareto
from hpo.backends.base import HpoBackend, Search
from hpo.space.points import draw, enumerate_points, point_text, size_of
from hpo.study.values import Params, Trial

_TRIES = 100  # draws, if each point was drawn before
_LISTED = 10_000  # most remaining points that are listed, to choose one of them


class TellingBackend(HpoBackend):
    """Remembers the ended trials. The points do not depend on them."""

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        self.search = search
        self._told = {trial.number: trial for trial in trials if trial.state == "succeeded"}

    def tell(self, trial: Trial) -> None:
        if trial.state == "succeeded":
            self._told[trial.number] = trial

    def best(self) -> tuple[int, ...]:
        feasible = [trial for _, trial in sorted(self._told.items()) if trial.feasible]
        points = [pareto.losses(trial.values, self.search.objectives) for trial in feasible]
        return tuple(feasible[index].number for index in pareto.front(points))


class RandomBackend(TellingBackend):
    """Draws uniformly from choices, ranges and logarithms of ranges.

    In a finite space it draws from the points not yet drawn, while there are any.
    """

    name = "random"

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        super().__init__(search, trials)
        self._seen = {point_text(trial.params) for trial in trials}

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        params = self._draw(random.Random(f"{self.search.seed}-{number}")) if fixed is None else fixed
        self._seen.add(point_text(params))
        return params

    def _draw(self, generator: random.Random) -> Params:
        """Draw a point that was not drawn before, if there is one."""
        space = self.search.space
        params = draw(space, generator)
        for _ in range(_TRIES):
            if point_text(params) not in self._seen:
                return params
            params = draw(space, generator)
        if any(size_of(dim) is None for dim in space):
            return params
        unseen = (point for point in enumerate_points(space) if point_text(point) not in self._seen)
        left = list(islice(unseen, _LISTED))
        return generator.choice(left) if left else params
