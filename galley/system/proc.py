"""Processes: the only module that imports subprocess.

`run` is for tools that answer and end; `start` and `Child` are for jobs. A process is named by
its id *and* its start time, so that a later process of the same id is never mistaken for it.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from galley.errors import SubmissionError
from galley.system.pdeathsig import bound_to_me

if TYPE_CHECKING:
    import psutil

_MOMENT_S = 0.005
_START_TOLERANCE_S = 2.0  # psutil derives the start from the wall clock's boot time, which NTP moves


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Standard output of a tool that succeeds.

    Raises:
        SubmissionError: it is missing, takes longer than `timeout_s`, or ends with another code
            than 0; the message carries what the tool itself said.
    """
    line = shlex.join(argv)
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=env,
            input=stdin,
        )
    except subprocess.TimeoutExpired as error:
        raise SubmissionError(f"`{line}` did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise SubmissionError(f"`{line}` cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        reason = done.stderr.strip() or done.stdout.strip() or "it gave no reason"
        raise SubmissionError(f"`{line}` failed ({describe_exit(done.returncode)}): {reason}")
    return done.stdout


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGKILL` for the negative codes of processes that a signal ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from later ones of the same id.

    Attributes:
        started_at: Unix time, in seconds.
    """

    pid: int
    started_at: float

    def find(self) -> psutil.Process | None:
        """The living process (zombies are dead), or None."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < _START_TOLERANCE_S
            return process if same and _lives(process) else None
        except psutil.Error:
            return None


class Child:
    """A job that this process started, and whose exit code it therefore can learn.

    Attributes:
        end: a descriptor that can be read once it has ended; null after that was seen, or where the system
            has none.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.id = ProcessId(popen.pid, started_at(popen.pid))
        self.end: int | None = None
        with suppress(AttributeError, OSError):  # not on Linux, or before 5.3
            self.end = os.pidfd_open(popen.pid)

    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        code = self._popen.poll()
        if code is not None and self.end is not None:
            os.close(self.end)
            self.end = None
        return code


def started_at(pid: int) -> float:
    """When a living process was started, for its `ProcessId`."""
    import psutil

    return psutil.Process(pid).create_time()


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    dies_with_parent: bool,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a job in a session of its own: no terminal and no Ctrl-C reaches it but ours.

    Its environment is exactly `env`; both its output streams are appended to `log`. With
    `dies_with_parent` it gets SIGTERM when this process ends for any reason, SIGKILL included. Of the
    open files it inherits `pass_fds` alone.

    Raises:
        SubmissionError: the executable cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        try:
            popen = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=bound_to_me(signal.SIGTERM) if dies_with_parent else None,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise SubmissionError(f"`{argv[0]}` cannot be started: {error.strerror}") from error
    return Child(popen)


def find_by_arguments(part: Sequence[str]) -> list[psutil.Process]:
    """This user's living processes whose command line has `part` as consecutive arguments."""
    import psutil

    found = []
    for pid in psutil.pids():
        if pid == os.getpid() or not _may_contain(pid, part):
            continue
        try:
            process = psutil.Process(pid)
            mine = process.uids().real == os.getuid()
            if mine and _contains(process.cmdline(), part) and _lives(process):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def _may_contain(pid: int, part: Sequence[str]) -> bool:
    """A look that costs a thirtieth of psutil's; true where there is no /proc."""
    try:
        return b"\0".join(os.fsencode(word) for word in part) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()


def _contains(arguments: Sequence[str], part: Sequence[str]) -> bool:
    size = len(part)
    return any(list(arguments[i : i + size]) == list(part) for i in range(len(arguments) - size + 1))


def with_descendants(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    """The roots and everything below them that still lives."""
    import psutil

    found: set[psutil.Process] = set()
    for root in roots:
        try:
            found |= {root, *root.children(recursive=True)}
        except psutil.Error:
            continue
    return found


def terminate(
    roots: Callable[[], Iterable[psutil.Process]], grace_s: float, hurry: Callable[[], bool] = lambda: False
) -> None:
    """End the processes and all their descendants: SIGTERM, `grace_s` seconds, then SIGKILL.

    `roots` is asked again before the kill, so that what was born meanwhile is found too; what has
    lost its parent is not forgotten. `hurry` cuts the grace short. Returns when all have ended,
    or 2 s after the kill (a process in uninterruptible sleep cannot be waited for).
    """
    processes = with_descendants(roots())
    if not processes:
        return
    _signal_all(processes, signal.SIGTERM)
    _await(processes, grace_s, hurry)
    processes |= with_descendants(roots())
    _signal_all(processes, signal.SIGKILL)
    _await(processes, 2.0)


def await_end(ends: Iterable[int], timeout_s: float) -> None:
    """Until one of the descriptors can be read, or for `timeout_s`.

    Where one can already it takes a moment none the less: whoever asks again and again may spin.
    """
    news = select.poll()
    for end in ends:
        news.register(end, select.POLLIN)
    if news.poll(0):
        time.sleep(min(timeout_s, _MOMENT_S))
    else:
        news.poll(timeout_s * 1000)


def _await(
    processes: Iterable[psutil.Process], seconds: float, hurry: Callable[[], bool] = lambda: False
) -> None:
    """Until none lives. Reaps nothing: a child's exit code belongs to its `Child`.

    Not `psutil.wait_procs`: that reaps children, and waits for zombies that nobody reaps, as in
    containers without an init.
    """
    end = time.monotonic() + seconds
    while any(_lives(process) for process in processes) and time.monotonic() < end and not hurry():
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
