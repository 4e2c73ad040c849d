"""Locks against another process, which holds one and is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.system.locks import held, lock_at_once, unlock

HOLDER = """
import fcntl, sys, time
stream = open(sys.argv[1], "a")
fcntl.flock(stream, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused_until_that_process_ends(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    with (tmp_path / "lock").open("a") as stream:
        for shared in (False, True):
            with pytest.raises(BlockingIOError):
                lock_at_once(stream, shared=shared)
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):
            lock_at_once(stream, within_s=0.2)
        assert time.monotonic() - begun >= 0.2
        holder.kill()
        holder.wait()
        lock_at_once(stream, within_s=5)
        unlock(stream)
    with held(tmp_path / "lock"):
        pass


def test_shared_locks_stand_beside_each_other(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("a") as one, (tmp_path / "lock").open("a") as two:
        lock_at_once(one, shared=True)
        lock_at_once(two, shared=True)
        with pytest.raises(BlockingIOError):
            lock_at_once(one)
