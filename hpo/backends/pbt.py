"""`hpo=pbt`: population based training (Jaderberg et al. 2017, arXiv:1711.09846), without a barrier.

A trial is one interval of a member (see `hpo.population`). When a member's next interval is asked, it is
compared with the others: with their state after as many intervals, or, if they are behind, with their
latest state. One of the worst takes over weights and parameters of one of the best that have come as
far (exploit) and changes the parameters (explore); any other continues unchanged. No member waits for
another, except one whose interval failed: it waits until another has come as far, and takes its weights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from galley.schema import Pbt
from hpo import pareto
from hpo.backends.base import Search
from hpo.backends.random import TellingBackend
from hpo.population import intervals
from hpo.space.points import draw, draw_value, nth_value
from hpo.study.values import ENDED, Params, Place, SpaceDim, Trial


class PbtBackend(TellingBackend):
    """Draws for members, numbered from 0, each with `hpo.trials / hpo.pbt.population` intervals."""

    name = "pbt"

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        super().__init__(search, trials)
        self._settings = search.settings.pbt
        self._trials = list(trials)

    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        """Return the next interval of the member that is furthest behind; None also if all of them run."""
        generator = random.Random(f"{self.search.seed}-{number}")
        lines = self._lines()
        ready = [member for member, line in enumerate(lines) if self._is_ready(line, lines)]
        if not ready:
            return None

        member = min(ready, key=lambda member: len(lines[member]))
        source = self._source(lines[member], lines, generator)
        if source is None:
            params = draw(self.search.space, generator)
        elif source.member == member:
            params = source.params
        else:
            params = explore(self.search.space, source.params, self._settings, generator)

        parent = None if source is None else source.number
        self.note(Trial(number, "running", fixed or params, member=member, parent=parent))
        return fixed or params

    def place(self, number: int) -> Place:
        return Place(self._trials[number].member, self._trials[number].parent)

    def waits(self) -> bool:
        return any(trial.state not in ENDED for trial in self._trials)

    def note(self, trial: Trial) -> None:
        self._trials.append(trial)

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        self._trials[trial.number] = trial

    def _lines(self) -> list[list[Trial]]:
        """Return the trials of each member, one per interval."""
        lines: list[list[Trial]] = [[] for _ in range(self._settings.population)]
        for trial in self._trials:
            lines[trial.member or 0].append(trial)
        return lines

    def _is_ready(self, line: Sequence[Trial], lines: Sequence[Sequence[Trial]]) -> bool:
        """Return whether the member has another interval, and weights to start it from."""
        if not line or len(line) == intervals(self.search.settings):
            return not line
        if line[-1].state not in ENDED:
            return False
        return line[-1].state == "succeeded" or bool(_arrived(lines, len(line)))

    def _source(
        self, line: Sequence[Trial], lines: Sequence[Sequence[Trial]], generator: random.Random
    ) -> Trial | None:
        """Return the trial from whose weights the member's next interval starts; None if it is the first."""
        if not line:
            return None
        order = sorted((known[-1] for known in _ended(lines, len(line)) if known), key=self._rank)
        worst, best = quantiles(order, self._settings.quantile_fraction)
        arrived = _arrived(lines, len(line))
        donors = [trial for trial in best if trial in arrived]
        if line[-1].state != "succeeded":
            return generator.choice(donors or [min(arrived, key=self._rank)])
        return generator.choice(donors) if donors and line[-1] in worst else line[-1]

    def _rank(self, trial: Trial) -> tuple[bool, bool, tuple[float, ...], int]:
        """Return a sort key; less is better.

        Feasible trials by the objective, then infeasible, then failed ones.
        """
        succeeded = trial.state == "succeeded"
        losses = pareto.losses(trial.values, self.search.objectives) if succeeded else ()
        return not succeeded, not trial.feasible, tuple(losses), trial.number


def _ended(lines: Sequence[Sequence[Trial]], count: int) -> list[list[Trial]]:
    """Return the ended trials among the first `count` intervals of each member."""
    return [[trial for trial in line[:count] if trial.state in ENDED] for line in lines]


def _arrived(lines: Sequence[Sequence[Trial]], count: int) -> list[Trial]:
    """Return the trials that have left weights after `count` intervals."""
    return [line[count - 1] for line in lines if len(line) >= count and line[count - 1].state == "succeeded"]


def quantiles(order: Sequence[Trial], fraction: float) -> tuple[Sequence[Trial], Sequence[Trial]]:
    """Return (worst, best) of the trials, best first: equally many, rounded up, and never one in both."""
    count = min(math.ceil(len(order) * fraction), len(order) // 2)
    return order[len(order) - count :], order[:count]


def explore(space: Sequence[SpaceDim], params: Params, settings: Pbt, generator: random.Random) -> Params:
    """Return parameters near these, within the space. A dimension that did not exist is drawn."""
    moved: Params = {}
    for dim in space:
        if not dim.is_active(moved):
            continue
        if dim.key not in params or generator.random() < settings.resample_probability:
            moved[dim.key] = draw_value(dim, generator)
        else:
            moved[dim.key] = _perturb(dim, params[dim.key], settings, generator)
    return moved


def _perturb(dim: SpaceDim, value: Any, settings: Pbt, generator: random.Random) -> Any:
    """Return a neighboring choice, or the number times a factor. At the end of a range it may not change."""
    if dim.kind == "categorical":
        place = dim.choices.index(value) + generator.choice((-1, 1))
        return dim.choices[min(max(place, 0), len(dim.choices) - 1)]
    low, high = dim.bounds
    moved = min(max(value * generator.choice(settings.perturbation_factors), low), high)
    if dim.kind == "float" and dim.step is None:
        return moved
    return nth_value(dim, round((moved - low) / (dim.step or 1)))
