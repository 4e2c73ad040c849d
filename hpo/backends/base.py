"""The seam of the backends: what draws the parameters of a sweep.

A backend keeps nothing that the study's journal does not have. It is made from the study and the
trials so far, by each controller anew, and brings its own storage, if it has one, up to date then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galley.errors import SubmissionError
from galley.schema import Hpo
from hpo.study.values import Constraint, Objective, Params, Place, SpaceDim, Trial


class NoAnswerError(SubmissionError):
    """What the backend keeps its storage in does not answer now, or has lost what it had. Nothing is lost
    with it: a backend that is made anew, which waits until it answers, goes on."""


@dataclass(frozen=True)
class Search:
    """What a backend is made for.

    Attributes:
        name: of the study.
        folder: of the study: a backend may keep files of its own in it.
        seed: of the draws; equal seeds and equal histories draw equal parameters.
        settings: the recipe's `hpo`.
        dry: only to see whether the backend can express the search: it writes nothing.
        points: that are tried first, in this order.
        id: of the study (`hpo.study.identity`), by which a storage that others use too knows it.
    """

    name: str
    folder: Path
    space: tuple[SpaceDim, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    seed: int
    settings: Hpo
    dry: bool = False
    points: tuple[Params, ...] = ()
    id: str = ""


class HpoBackend(ABC):
    """Draws one point after another. Only the controller calls it, never a rank.

    A constructor takes the `Search` and all trials of the journal. It raises `ConfigError` where the
    backend cannot express the space or the objectives: no dimension is ever changed silently.
    Every method may raise `NoAnswerError`.
    """

    name: str

    @abstractmethod
    def __init__(self, search: Search, trials: Sequence[Trial]) -> None: ...

    @abstractmethod
    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        """The point of trial `number`, which is the count of the trials so far; null: there are no more.

        `fixed` is the point where it is given, as for a repeat: the backend takes note of it. Asked again
        after a crash, before the journal had the trial, it may answer otherwise.
        """

    def place(self, number: int) -> Place:
        """Where trial `number`, which was asked, stands in a population."""
        return Place()

    def waits(self) -> bool:
        """Whether `ask`, which said that there are no more points, may have one once a trial has ended."""
        return False

    def note(self, trial: Trial) -> None:
        """Another controller has asked this trial."""
        self.ask(trial.number, trial.params)

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """A trial has ended (`hpo.study.values.ENDED`). Telling it twice changes nothing."""

    @abstractmethod
    def best(self) -> tuple[int, ...]:
        """Numbers of the best trials told, as the backend sees it, ascending."""

    def close(self) -> None:
        """Let go of files and connections."""
        return
