"""A study, its journal and its backend in step with what other controllers of it do.

Whoever asks a trial or ends one takes a turn: the journal is locked, and all that others wrote is taken
in first. So two controllers never ask the same trial, and each trial belongs to one of them: the one that
asked it, or, once that is dead, the one that adopted it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from galley.errors import ConfigError
from hpo.backends.base import HpoBackend, NoAnswerError
from hpo.study.event_log import Adopted, Asked, Ended, Event, EventLog, broken
from hpo.study.leases import Lease, is_held, is_of_this_machine
from hpo.study.state import Study
from hpo.study.values import Trial

_LOOK_S = 0.5  # between two looks at whether other controllers live
ELSEWHERE_S = 60.0  # after which no process of a dead controller of another machine lives any more


class Ledger:
    """What one controller knows of its study, and writes of it.

    Attributes:
        is_alone: no other controller lived when this one began.
    """

    def __init__(
        self, study: Study, journal: EventLog, make_backend: Callable[[Sequence[Trial]], HpoBackend]
    ) -> None:
        """Raises `ConfigError` as `hpo.backends.make_backend` does."""
        self.study = study
        self.backend = make_backend(study.trials)
        self._make_backend = make_backend
        self._is_silent = False
        self._journal = journal
        self._lease = Lease(study.folder.controllers)
        self.is_alone = self._lease.is_alone
        self._unheard: deque[Asked | Ended] = deque()
        self._looked_at = 0.0
        self._dead_since: dict[str, float] = {}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else writes meanwhile, and all that others wrote is known."""
        with self._journal.turn():
            self._read()
            yield

    def follow(self) -> None:
        """Take in what other controllers have written, if anything."""
        if self._journal.has_news():
            with self.turn():
                pass

    def write(self, event: Event) -> None:
        """On the disk first, then in memory. Only in a turn."""
        self._journal.append(event)
        reason = self.study.apply(event)
        if reason:
            raise AssertionError(f"the journal {reason}")

    def ask(self) -> int | None:
        """The number of a new trial of this controller; None where there is none to ask.

        Raises `NoAnswerError`; then nothing was asked.
        """
        with self.turn(), self._answering() as backend:
            self._hear(backend)
            study, number = self.study, len(self.study.trials)
            if self.is_whole():
                return None
            root = number - number % study.hpo.repeats
            repeat_of = root if root != number else None
            fixed = study.trials[root].params if root != number else study.known_point(number)
            params = backend.ask(number, fixed)
            if params is not None:
                place = backend.place(number)
                asked = Asked(number, params, time.time(), repeat_of, self._lease.name)
                self.write(replace(asked, member=place.member, parent=place.parent))
            return None if params is None else number

    def end(self, event: Ended) -> None:
        """A trial of this controller has ended."""
        with self.turn():
            self.write(event)
            self._unheard.append(event)

    def hear(self) -> None:
        """The backend learns what it does not know of yet. Raises `NoAnswerError`: later, then."""
        if self._unheard:
            with self.turn(), self._answering() as backend:
                self._hear(backend)

    def is_heard(self) -> bool:
        """Whether the backend knows all."""
        return not self._unheard

    def record(self, event: Event) -> None:
        with self.turn():
            self.write(event)

    def is_whole(self) -> bool:
        """Whether as many trials were asked as there are to be."""
        target = self.study.target
        return target is not None and len(self.study.trials) >= target

    def others(self) -> list[Trial]:
        """Running trials of other controllers, living or dead."""
        owners, mine = self.study.owners, self._lease.name
        return [trial for trial in self.study.running() if owners[trial.number] != mine]

    def adopt(self, remote: bool) -> Trial | None:
        """A trial whose controller is dead, which is this one's now; None where there is none.

        Of another machine's, unless the runs are `remote`, only once its processes have ended too.
        """
        now = time.monotonic()
        if not self.others() or now - self._looked_at < _LOOK_S:
            return None
        with self.turn():
            for trial in self.others():
                if self._is_orphan(trial, remote, now):
                    self.write(Adopted(trial.number, self._lease.name, time.time()))
                    return trial
        self._looked_at = now
        return None

    def _is_orphan(self, trial: Trial, remote: bool, now: float) -> bool:
        owner = self.study.owners[trial.number]
        if is_held(self.study.folder.controllers, owner):
            return False
        since = self._dead_since.setdefault(owner, now)
        return remote or not owner or is_of_this_machine(owner) or now - since > ELSEWHERE_S

    def _read(self) -> None:
        first = self._journal.last_line + 1
        for line, event in enumerate(self._journal.read(), first):
            reason = self.study.apply(event)
            if reason:
                raise broken(self.study.folder.journal, line, reason)
            if isinstance(event, Asked | Ended):
                self._unheard.append(event)

    @contextmanager
    def _answering(self) -> Iterator[HpoBackend]:
        """The backend; made anew where the last use of it raised `NoAnswerError`. Only in a turn."""
        try:
            if self._is_silent:
                self.backend.close()
                self.backend = self._make_again()
            self._is_silent = False
            yield self.backend
        except NoAnswerError:
            self._is_silent = True
            raise

    def _make_again(self) -> HpoBackend:
        try:
            return self._make_backend(self.study.trials)
        except ConfigError as error:  # what would have ended the sweep at its start can still be mended
            raise NoAnswerError(str(error)) from error

    def _hear(self, backend: HpoBackend) -> None:
        """In the order of the journal. Only in a turn: to take note may be to ask."""
        while self._unheard:
            event = self._unheard[0]
            trial = self.study.trials[event.number]
            if isinstance(event, Asked):
                backend.note(trial)
            else:
                backend.tell(trial)
            self._unheard.popleft()

    def close(self) -> None:
        self.backend.close()
        self._lease.release()
