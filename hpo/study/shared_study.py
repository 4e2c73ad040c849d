"""Keep a study, its journal and its backend in step with its other controllers.

Whoever asks or ends a trial takes a turn: the journal is locked, and everything that others wrote is read
first. So two controllers never ask the same trial, and each trial belongs to one of them: the one that
asked it, or, once that one is dead, the one that adopted it.
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

_LOOK_S = 0.5  # between two checks whether other controllers live
ELSEWHERE_S = 60.0  # after this time no process of a dead controller on another machine is alive


class Ledger:
    """What one controller knows of its study, and writes about it.

    Attributes:
        is_alone: whether no other controller lived when this one began.
    """

    def __init__(
        self, study: Study, journal: EventLog, make_backend: Callable[[Sequence[Trial]], HpoBackend]
    ) -> None:
        """Take a lease, and make the backend. Raises `ConfigError` like `hpo.backends.make_backend`."""
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
        """Keep others from writing, with everything read that they wrote."""
        with self._journal.turn():
            self._read()
            yield

    def follow(self) -> None:
        """Read what other controllers have written, if anything."""
        if self._journal.has_news():
            with self.turn():
                pass

    def write(self, event: Event) -> None:
        """Write an event to the disk first, then apply it in memory. Only in a turn."""
        self._journal.append(event)
        reason = self.study.apply(event)
        if reason:
            raise AssertionError(f"the journal {reason}")

    def ask(self) -> int | None:
        """Return the number of a new trial of this controller; None if there is none to ask.

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
        """Record that a trial of this controller has ended."""
        with self.turn():
            self.write(event)
            self._unheard.append(event)

    def hear(self) -> None:
        """Tell the backend what it does not know yet.

        Raises `NoAnswerError`; the caller tries again later.
        """
        if self._unheard:
            with self.turn(), self._answering() as backend:
                self._hear(backend)

    def is_heard(self) -> bool:
        """Return whether the backend knows everything."""
        return not self._unheard

    def record(self, event: Event) -> None:
        """Write an event in a turn of its own."""
        with self.turn():
            self.write(event)

    def is_whole(self) -> bool:
        """Return whether all trials of the study were asked."""
        target = self.study.target
        return target is not None and len(self.study.trials) >= target

    def others(self) -> list[Trial]:
        """Return running trials of other controllers, living or dead."""
        owners, mine = self.study.owners, self._lease.name
        return [trial for trial in self.study.running() if owners[trial.number] != mine]

    def adopt(self, remote: bool) -> Trial | None:
        """Take over a trial whose controller is dead, and return it; None if there is none.

        If that controller was on another machine, its processes must have ended, too, unless the runs are
        `remote`.
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
        """Return whether the trial's controller is dead, and no process of it can be alive."""
        owner = self.study.owners[trial.number]
        if is_held(self.study.folder.controllers, owner):
            return False
        since = self._dead_since.setdefault(owner, now)
        return remote or not owner or is_of_this_machine(owner) or now - since > ELSEWHERE_S

    def _read(self) -> None:
        """Apply what others wrote, and queue it for the backend."""
        first = self._journal.last_line + 1
        for line, event in enumerate(self._journal.read(), first):
            reason = self.study.apply(event)
            if reason:
                raise broken(self.study.folder.journal, line, reason)
            if isinstance(event, Asked | Ended):
                self._unheard.append(event)

    @contextmanager
    def _answering(self) -> Iterator[HpoBackend]:
        """Yield the backend; a new one if its last use raised `NoAnswerError`. Only in a turn."""
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
        except ConfigError as error:  # at the start it ends the sweep; now the user can still repair it
            raise NoAnswerError(str(error)) from error

    def _hear(self, backend: HpoBackend) -> None:
        """Tell the backend in the order of the journal. Only in a turn: recording a trial may ask for one."""
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
