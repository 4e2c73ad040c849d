"""`hpo=random`: each point drawn by itself, from the seed and the number of its trial."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hpo import pareto
from hpo.base import HpoBackend, Search
from hpo.points import draw
from hpo.values import Params, Trial


class TellingBackend(HpoBackend):
    """Remembers what it is told; the points do not depend on it."""

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
    """Uniform over choices, ranges and logarithms of ranges."""

    name = "random"

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        return fixed or draw(self.search.space, random.Random(f"{self.search.seed}-{number}"))
