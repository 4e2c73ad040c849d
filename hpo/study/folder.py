"""The folder of a study: all of its paths, and its lock.

<study_dir>/journal.jsonl   all of the study's state          code/     snapshot that all trials run
           /trials/0007/    run folder of trial 7             optuna.log  what optuna-dashboard opens
           /.lock           held by the controllers           CANCEL    a request to end
           /.controllers/   a lease of each that lives        .ahead/   code of trials to come
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from galley.errors import ConfigError, Problem, SubmissionError, valid_values
from galley.system.locks import lock_at_once

JOURNAL = "journal.jsonl"
_ASKED_S = 0.5


class StudyFolder:
    """The paths of one study. Creates nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = root / JOURNAL
        self.code = root / "code"
        self.trials = root / "trials"
        self.controllers = root / ".controllers"
        self.ahead = root / ".ahead"
        self.cancel_request = root / "CANCEL"
        self.optuna = root / "optuna.log"
        self.report = root / "report"

    def trial(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.trials / f"{number:04d}"

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Keep other controllers out, or with `shared` those that do not share the study.

        The kernel releases the lock when this process ends, for whatever reason. Raises `SubmissionError` if
        another process of this machine, or of another that shares the file system, holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        # Not "w", which would erase the holder's process id before the lock is taken.
        with (self.root / ".lock").open("a+") as stream:
            try:
                # Somebody may hold it for a moment, only to ask whether a controller lives.
                lock_at_once(stream, shared=shared, within_s=_ASKED_S)
            except BlockingIOError as error:
                stream.seek(0)
                holder = stream.read().strip() or "?"
                raise SubmissionError(
                    f"{self.root}: process {holder} is running this sweep already; nothing was changed; "
                    f"see `status {self.root}` and `cancel {self.root}`; "
                    "several controllers can run a sweep that was begun with hpo.share=true"
                ) from error
            stream.truncate(0)
            with suppress(
                OSError
            ):  # only informs others who holds the lock; a full disk must not end the sweep
                os.write(stream.fileno(), f"{os.getpid()}\n".encode())
            yield

    def is_locked(self) -> bool:
        """Return whether a controller lives."""
        try:
            stream = (self.root / ".lock").open()
        except OSError:
            return False
        with stream:
            try:
                # An exclusive lock: a shared one would be granted beside the shared locks of controllers.
                lock_at_once(stream)
            except BlockingIOError:
                return True
            return False


def studies(root: Path) -> list[Path]:
    """Return the folders of all studies below `root`, by name."""
    return sorted(path.parent for path in root.glob(f"*/{JOURNAL}"))


def find_study(word: str, root: Path) -> Path:
    """Return the study whose folder is `word`, or whose name below `root` it is. Raises `ConfigError`."""
    for path in (Path(word).expanduser(), root / word):
        if word and (path / JOURNAL).is_file():
            return path.resolve()
    names = [path.name for path in studies(root)]
    what = f"is no study, neither a folder nor a name in {root}"
    raise ConfigError(Problem(word or "study", what, valid_values(word, names)))


def means_study(word: str, root: Path) -> bool:
    """Return whether `word` means a sweep, not a run: a folder with a journal, or the name of one."""
    return bool(word) and any((path / JOURNAL).is_file() for path in (Path(word).expanduser(), root / word))
