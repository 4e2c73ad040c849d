"""Handle memory that runs out in an optimizer step: smaller micro-batches, the same global batch.

A single process repeats the step. If ranks communicate in the backward, the others wait in a collective
for the one that failed, and no engine can undo that: all ranks start again, from the last complete
checkpoint. Each rank replaces its own image (`exec`): its parent sees the same process, with the same
rank and logs, and all memory is given back.

The request travels through the store by which the ranks found each other, and a thread of each
rank answers it: the main thread does not return from a collective that nobody completes.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from galley.run.relayout import halved
from galley.spec import Layout
from trainer.run.attempt_layout import MICRO_SIZE
from trainer.run.failures import StepMemoryError, is_out_of_memory

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from trainer.engines.base import Engine

log = logging.getLogger("galley")

STARTED_AT = "GALLEY_STARTED_AT"
_REQUEST, _ANSWERS = "memory/request", "memory/answers"
_POLL_S = 0.5
_ANSWER_TIMEOUT_S = 60.0
_ADVICE = (
    "set train.gradient_checkpointing=true, lower data.max_length, or let the ranks share more: "
    "strategy=zero3 or fsdp, then zero3_offload or fsdp_offload"
)


def describe_split(layout: Layout) -> str:
    """Describe how the global batch is split from now on."""
    return (
        f"going on with micro_size {layout.micro_size} × accumulation {layout.accumulation}"
        f" × {layout.data_parallel} ranks = {layout.global_size}"
    )


@contextmanager
def memory_watched(engine: Engine) -> Iterator[None]:
    """Raise `StepMemoryError`, with advice, if memory runs out in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        layout = engine.setup.layout
        smaller = halved(layout)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        many = f"{layout.micro_size} samples" if smaller else "one sample"
        advice = "" if smaller else f": {_ADVICE}"

        message = f"out of memory with {many} a rank at once (batch.micro_size){advice} ({reason})"
        raise StepMemoryError(message, smaller.micro_size if smaller else None) from error


class Restart:
    """Restarts all ranks together. Call `watch` on every rank before the first step, `end` after the last.

    Attributes:
        started_at: `time.monotonic()` of the first line of the first image.
        ready: called before this rank leaves; it waits for work that must not be lost.
    """

    def __init__(self, store: Store | None, world_size: int, started_at: float) -> None:
        # torch documents `clone` as the safe way to use a store from several threads: one clone per thread.
        self._store: Store | None = store.clone() if store is not None else None  # type: ignore[attr-defined]
        self._world_size = world_size
        self._started_at = started_at
        self._ended = threading.Event()
        self._leaving = threading.Event()
        self.ready: Callable[[], None] = lambda: None

    def watch(self) -> None:
        """Start the thread that answers requests of other ranks."""
        if self._store is not None:
            threading.Thread(target=self._answer, args=(self._store,), name="memory", daemon=True).start()

    def end(self) -> None:
        """Stop the thread."""
        self._ended.set()

    def request(self, micro_size: int) -> NoReturn:
        """Make all ranks start again, with at most `micro_size` samples at once."""
        log.warning("out of memory: all ranks start again with micro_size %d", micro_size)
        if self._store is None:
            self._leave(micro_size)
        self._store.set(_REQUEST, str(micro_size))
        while True:
            time.sleep(_POLL_S)  # the thread ends this image

    def hold(self) -> None:
        """Wait for ever if this rank is about to start again.

        An error of a collective is then no failure: the peers have started again already.
        """
        while self._leaving.is_set():
            time.sleep(_POLL_S)

    def _answer(self, store: Store) -> None:
        """Poll for a request, and start again when one comes. The body of the thread."""
        while not self._ended.wait(_POLL_S):
            try:
                asked = store.check([_REQUEST])
            except (
                RuntimeError
            ):  # the rank that holds the store is gone; the others notice this by themselves
                return
            if asked:
                self._leaving.set()
                micro_size = int(store.get(_REQUEST))
                self._await_others(store)
                self._leave(micro_size)

    def _await_others(self, store: Store) -> None:
        """Wait until all ranks know of the request.

        One of the ranks may hold the store: if it left first, the others could not read the request.
        """
        store.add(_ANSWERS, 1)
        end = time.monotonic() + _ANSWER_TIMEOUT_S
        try:
            while store.add(_ANSWERS, 0) < self._world_size and time.monotonic() < end:
                time.sleep(0.05)
        except RuntimeError:
            log.info("the store is gone: its rank starts again")

    def _leave(self, micro_size: int) -> NoReturn:
        """Replace this process by a new image that resumes with the smaller micro-batches."""
        self.ready()
        os.environ |= {
            "GALLEY_RESUME": "1",
            MICRO_SIZE: str(micro_size),
            STARTED_AT: str(self._started_at),
        }
        # `exec` discards what Python has buffered: write it out first.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        close_on_exec()
        argv = [sys.executable, "-P", "-m", "trainer.worker", *sys.argv[1:]]
        os.execv(sys.executable, argv)  # noqa: S606  # no shell is wanted


def close_on_exec() -> None:
    """Mark all descriptors but the standard ones to be closed by `exec`.

    Closing them before `exec` would make torch's threads fail.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # the descriptor of the listing itself is closed already
            if int(entry.name) > sys.stderr.fileno():
                os.set_inheritable(int(entry.name), False)
