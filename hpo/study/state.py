"""The state of a study: the events of its journal, applied in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.metrics import Direction
from galley.schema import Hpo
from hpo.objectives import directions, read_objectives
from hpo.space.dimensions import read_space
from hpo.space.points import point_text
from hpo.study.event_log import (
    Adopted,
    Asked,
    Begun,
    Cancelled,
    Ended,
    Event,
    Extended,
    Retried,
    broken,
    read_journal,
)
from hpo.study.folder import StudyFolder
from hpo.study.values import ENDED, Constraint, Objective, Params, SpaceDim, Trial


@dataclass
class Study:
    """What is known of a study. `apply` takes the next event, and is the only way to change it.

    Attributes:
        trials: in order of their numbers; a trial that has not ended is `running`.
        retries: trial -> how often it was started again after a failure of its own.
        given_up: trial -> its last attempt that failed and was to be repeated.
        owners: trial -> the controller that runs it, or ran it last.
        cancelled: whether somebody cancelled it, and nobody resumed it.
        extended: the number of trials, if it was changed after the study began.
    """

    folder: StudyFolder
    begun: Begun
    trials: list[Trial] = field(default_factory=list)
    retries: dict[int, int] = field(default_factory=dict)
    given_up: dict[int, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    cancelled: bool = False
    extended: int | None = None

    @property
    def name(self) -> str:
        return self.begun.name

    @property
    def hpo(self) -> Hpo:
        """Return the current settings."""
        hpo = self.begun.recipe.hpo
        return hpo if self.extended is None else replace(hpo, trials=self.extended)

    @cached_property
    def space(self) -> tuple[SpaceDim, ...]:
        return read_space(self.hpo.space)

    @cached_property
    def _sought(self) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
        return read_objectives(self.begun.recipe)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self._sought[0]

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return self._sought[1]

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """Return which direction is better, by metric, if it is known."""
        return directions(self.begun.recipe, self.objectives)

    @property
    def target(self) -> int | None:
        """Return the number of trials that the study shall have; None for as many as the backend has."""
        return self.hpo.trials

    def known_point(self, number: int) -> Params | None:
        """Return the point of a new trial, if the study was given it (`hpo.points`)."""
        index = number // self.hpo.repeats
        return self.begun.points[index] if index < len(self.begun.points) else None

    def earlier(self, trial: Trial) -> Trial | None:
        """Return the first trial with the same point as this one; None if this one is a repeat."""
        if trial.repeat_of is not None or trial.member is not None:
            return None
        text = point_text(trial.params)
        others = (other for other in self.trials[: trial.number] if other.repeat_of is None)
        return next((other for other in others if point_text(other.params) == text), None)

    def running(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials if trial.state not in ENDED]

    def apply(self, event: Event) -> str:
        """Apply the event; return why it cannot follow those before it, or an empty string."""
        if isinstance(event, Asked):
            return self._ask(event)
        if isinstance(event, Ended | Retried | Adopted):
            if not 0 <= event.number < len(self.trials):
                return f"speaks of trial {event.number}, which was never asked"
            if self.trials[event.number].state in ENDED:
                return f"speaks of trial {event.number}, which had ended before"
            if isinstance(event, Retried):
                self.retries[event.number] = self.retries.get(event.number, 0) + event.counted
                self.given_up[event.number] = event.attempt
            elif isinstance(event, Adopted):
                self.owners[event.number] = event.controller
            else:
                self._end(event)
            return ""

        if isinstance(event, Extended):
            self.extended = event.trials
            return ""
        if isinstance(event, Begun):
            return "begins the study again"
        self.cancelled = isinstance(event, Cancelled)
        return ""

    def _ask(self, event: Asked) -> str:
        """Add a trial; return why the event is not possible, or an empty string."""
        if event.number != len(self.trials):
            return f"asks trial {event.number}, but {len(self.trials)} is the next"
        if event.parent is not None and not self._has_weights(event.parent):
            return f"asks trial {event.number} of trial {event.parent}, which has not succeeded"

        run = str(self.folder.trial(event.number))
        self.owners[event.number] = event.controller
        self.trials.append(
            Trial(
                event.number,
                "running",
                event.params,
                run=run,
                started_at=event.time,
                repeat_of=event.repeat_of,
                member=event.member,
                parent=event.parent,
            )
        )
        return ""

    def _has_weights(self, number: int) -> bool:
        return 0 <= number < len(self.trials) and self.trials[number].state == "succeeded"

    def _end(self, event: Ended) -> None:
        self.trials[event.number] = replace(
            self.trials[event.number],
            state=event.state,
            values=event.values,
            metrics=event.metrics,
            feasible=event.feasible,
            message=event.message,
            attempts=event.attempts,
            ended_at=event.time,
        )


def read_study(root: Path) -> Study:
    """Return the current state of the study in this folder. Changes nothing.

    If the study was cancelled, no trial can be running: one that has not ended is `cancelled`.
    Raises `ConfigError` if there is no study, or if a line of its journal is broken.
    """
    folder = StudyFolder(root.resolve())
    study = fold(folder, read_journal(folder.journal))
    if study.cancelled:
        study.trials = [
            trial if trial.state in ENDED else replace(trial, state="cancelled") for trial in study.trials
        ]
    return study


def fold(folder: StudyFolder, events: Sequence[Event]) -> Study:
    """Apply all events. Raises `ConfigError` if one event cannot follow the others."""
    if not events:
        hint = "nothing was started: delete the folder, and begin the sweep again"
        raise ConfigError(Problem(str(folder.journal), "is empty", hint))
    if not isinstance(events[0], Begun):
        raise broken(folder.journal, 1, "does not begin a study")
    study = Study(folder, events[0])
    for number, event in enumerate(events[1:], 2):
        reason = study.apply(event)
        if reason:
            raise broken(folder.journal, number, reason)
    return study
