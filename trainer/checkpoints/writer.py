"""Save while training goes on: a step waits for the copy, a thread writes it.

One checkpoint is written at a time: the next one, and the end of the run, wait for it. An error of the
thread is raised at the next call, on every rank.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from galley.rundir import checkpoint_name
from galley.schema import Checkpoint
from trainer.checkpoints.manifest import TrainState
from trainer.checkpoints.store import Snapshot, make_room, take_snapshot, write
from trainer.engines.base import Engine
from trainer.hosts.ranks import Ranks

log = logging.getLogger("galley")


class Writer:
    """Writes the checkpoints of one run. The files are the same whether `asynchronous` or not."""

    def __init__(self, root: Path, settings: Checkpoint) -> None:
        self._root = root
        self._settings = settings
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, engine: Engine, state: TrainState) -> float:
        """Begin to save; return the seconds for which training stood still. A collective."""
        started = time.perf_counter()
        self.wait()
        partial = make_room(self._root, state, engine)
        snapshot = take_snapshot(engine, state)
        self._pending = self._pool.submit(self._write, partial, snapshot, engine.setup.ranks)
        if not self._settings.asynchronous:
            self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait until the checkpoint is complete. Raises what its writing raised."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def check(self) -> None:
        """Raise what a finished writing raised. Does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def finish(self) -> None:
        """Wait like `wait`, but raise nothing: for a process that ends whatever the outcome."""
        if self._pending is not None:
            self._pending.exception()

    def _write(self, partial: Path, snapshot: Snapshot, ranks: Ranks) -> None:
        started = time.perf_counter()
        write(partial, snapshot, ranks, self._settings.keep)
        log.info("saved %s in %.2f s", checkpoint_name(snapshot.state.step), time.perf_counter() - started)
