"""The interface of backends, which draw the parameters of a sweep.

A backend keeps nothing that the study's journal lacks. Each controller makes it anew, from the study and the
trials so far. If it has a storage of its own, it brings that up to date then.
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
    """The backend's storage does not answer, or has lost its content.

    Nothing is lost with it: a new backend, which waits until the storage answers, continues.
    """


@dataclass(frozen=True)
class Search:
    """What a backend is made for.

    Attributes:
        name: of the study.
        folder: of the study; a backend may keep files of its own in it.
        seed: of the draws; equal seeds and equal histories draw equal parameters.
        settings: the recipe's `hpo`.
        dry: whether this only checks that the backend can express the search: it then writes nothing.
        points: are tried first, in this order.
        id: of the study (`hpo.study.identity`); identifies it in a storage that others use, too.
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

    A constructor takes the `Search` and all trials of the journal. It raises `ConfigError` if the
    backend cannot express the space or the objectives: no dimension is ever changed silently.
    Every method may raise `NoAnswerError`.
    """

    name: str

    @abstractmethod
    def __init__(self, search: Search, trials: Sequence[Trial]) -> None: ...

    @abstractmethod
    def ask(self, number: int, fixed: Params | None = None) -> Params | None:
        """Return the point of trial `number`, which is the count of the trials so far; None if there are no
        more.

        `fixed` is the point if it is given, as for a repeat: the backend records it. Asked again
        after a crash, before the journal had the trial, it may answer differently.
        """

    def place(self, number: int) -> Place:
        """Return the position of trial `number`, which was asked, in a population."""
        return Place()

    def waits(self) -> bool:
        """Return whether `ask`, which had no more points, may have one once a trial has ended."""
        return False

    def note(self, trial: Trial) -> None:
        """Record a trial that another controller has asked."""
        self.ask(trial.number, trial.params)

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Record that a trial has ended (`hpo.study.values.ENDED`). Telling it twice changes nothing."""

    @abstractmethod
    def best(self) -> tuple[int, ...]:
        """Return the numbers of the best trials told, in the backend's view, ascending."""

    def close(self) -> None:
        """Close files and connections."""
        return
