from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from galley.errors import SubmissionError
from galley.system import proc
from tests.integration.local.standin import wait_until

# A parent that starts a child and says its id; both sleep.
FAMILY = """
import os, signal, sys, time
if {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child: open(sys.argv[1] + ".part", "w").write(str(child)); os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""


def start_family(tmp_path: Path, stubborn: bool) -> tuple[proc.Child, int]:
    """The parent, and the id of the child."""
    file = tmp_path / "child"
    argv = [sys.executable, "-c", FAMILY.format(stubborn=stubborn), str(file)]
    parent = proc.start(argv, env=os.environ, log=tmp_path / "log", dies_with_parent=True)
    wait_until(file.exists)
    return parent, int(file.read_text())


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def roots(child: proc.Child) -> list[psutil.Process]:
    return [process for process in [child.id.find()] if process is not None]


def test_run_returns_what_the_tool_says() -> None:
    assert proc.run(["cat"], timeout_s=10, stdin="a 'b' $c\n") == "a 'b' $c\n"


def test_a_tool_that_refuses_gives_its_own_reason() -> None:
    with pytest.raises(SubmissionError, match=r"`sh -c .*` failed \(exit code 7\): no such partition"):
        proc.run(["sh", "-c", "echo no such partition >&2; exit 7"], timeout_s=10)


def test_a_tool_that_dies_names_its_signal() -> None:
    with pytest.raises(SubmissionError, match="killed by SIGKILL"):
        proc.run(["sh", "-c", "kill -9 $$"], timeout_s=10)


def test_a_tool_that_is_missing() -> None:
    with pytest.raises(SubmissionError, match="`no-such-tool` cannot be started: No such file"):
        proc.run(["no-such-tool"], timeout_s=10)


def test_a_tool_that_hangs() -> None:
    with pytest.raises(SubmissionError, match=r"did not answer within 0\.2 s"):
        proc.run(["sleep", "60"], timeout_s=0.2)


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_exit_codes_in_words(code: int, text: str) -> None:
    assert proc.describe_exit(code) == text


def test_a_job_has_a_session_and_an_environment_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "logs/job.log"
    script = "import os; print(os.getsid(0) == os.getpid(), sorted(os.environ))"
    child = proc.start([sys.executable, "-c", script], env={"A": "1"}, log=log, dies_with_parent=False)
    assert wait_until(lambda: child.exit_code() is not None)
    assert log.read_text().startswith("True ['A'")


def test_a_job_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be started"):
        proc.start(["no-such-tool"], env={}, log=tmp_path / "log", dies_with_parent=True)


def test_a_process_is_told_from_a_later_one_of_the_same_id() -> None:
    me = psutil.Process()
    assert proc.ProcessId(me.pid, me.create_time()).find() == me
    assert proc.ProcessId(me.pid, me.create_time() - 100).find() is None


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    child = proc.start(["true"], env=os.environ, log=tmp_path / "log", dies_with_parent=True)
    wait_until(lambda: psutil.Process(child.id.pid).status() == psutil.STATUS_ZOMBIE)
    assert child.id.find() is None
    assert child.exit_code() == 0


@pytest.mark.parametrize(("stubborn", "least_s", "most_s"), [(False, 0.0, 1.0), (True, 0.5, 2.0)])
def test_a_whole_tree_ends(tmp_path: Path, stubborn: bool, least_s: float, most_s: float) -> None:
    parent, child = start_family(tmp_path, stubborn)
    started = time.monotonic()
    proc.terminate(lambda: roots(parent), grace_s=0.5)
    assert least_s <= time.monotonic() - started < most_s
    assert not lives(child)
    assert parent.exit_code() == (-signal.SIGKILL if stubborn else -signal.SIGTERM)


def test_hurry_cuts_the_grace_short(tmp_path: Path) -> None:
    parent, child = start_family(tmp_path, stubborn=True)
    started = time.monotonic()
    proc.terminate(lambda: roots(parent), grace_s=60.0, hurry=lambda: time.monotonic() - started > 0.2)
    assert time.monotonic() - started < 2
    assert not lives(child)


def test_processes_are_found_by_consecutive_arguments(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(600)", "--run-dir", str(tmp_path)]
    child = proc.start(argv, env=os.environ, log=tmp_path / "log", dies_with_parent=True)

    def found(*part: str) -> list[int]:
        return [process.pid for process in proc.find_by_arguments(part)]

    wait_until(lambda: found("--run-dir", str(tmp_path)) == [child.id.pid])
    assert found(str(tmp_path), "--run-dir") == []
    assert found("--run-dir", str(tmp_path)[:-1]) == []
    proc.terminate(lambda: roots(child), grace_s=1.0)
    assert found("--run-dir", str(tmp_path)) == []


def test_a_job_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import os, sys; from pathlib import Path; from galley.system import proc\n"
        "log = Path(sys.argv[1] + '.log')\n"
        "child = proc.start(['sleep', '600'], env=os.environ, log=log, dies_with_parent=True)\n"
        "Path(sys.argv[1]).write_text(str(child.id.pid)); os.kill(os.getpid(), 9)"
    )
    path = os.pathsep.join(sys.path)
    parent = proc.start(
        [sys.executable, "-c", script, str(pid_file)],
        env={**os.environ, "PYTHONPATH": path},
        log=tmp_path / "log",
        dies_with_parent=True,
    )
    assert wait_until(lambda: parent.exit_code() == -signal.SIGKILL)
    wait_until(lambda: not lives(int(pid_file.read_text())), timeout=5)


def test_the_end_of_a_process_is_seen_at_once(tmp_path: Path) -> None:
    """And still after it, until it was asked for its exit code."""
    parent, child = start_family(tmp_path, stubborn=False)
    end = parent.end
    assert end is not None
    timer = threading.Timer(0.2, os.kill, (parent.id.pid, signal.SIGKILL))
    timer.start()
    began = time.monotonic()
    proc.await_end([end], 60.0)
    proc.await_end([end], 60.0)
    assert time.monotonic() - began < 50
    assert parent.exit_code() == -signal.SIGKILL
    assert parent.end is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(end)
    os.kill(child, signal.SIGKILL)
