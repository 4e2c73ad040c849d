"""Detached runs, and acting on a run from another process."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli import jobs as verbs
from cli.options import Options
from galley.errors import ConfigError
from galley.rundir import RunFolder
from launchers.lifecycle import queries
from tests.integration.local.standin import (
    end_all,
    followed,
    last_json,
    make_run,
    processes_of,
    run_launch,
    start_launch,
    wait_until,
)


@pytest.fixture
def root(weird_tmp_path: Path) -> Iterator[Path]:
    yield weird_tmp_path
    for path in weird_tmp_path.iterdir():
        end_all(RunFolder(path))


def detach(folder: RunFolder) -> None:
    done = run_launch(folder, "detach")
    assert (done.rc, done.out.strip()) == (0, str(folder.root)), done.err


def test_a_detached_run_goes_on_and_gets_the_same_end(root: Path) -> None:
    folder = make_run(root / "run", "succeed_when_told")
    done = run_launch(folder, "detach", "json")
    assert last_json(done.out)["state"] == "running"
    assert queries.run_state(folder) == "running", "nobody has told it to go on"
    (folder.root / "go-on").touch()
    wait_until(lambda: queries.run_state(folder) == "succeeded", 60)
    wait_until(lambda: not processes_of(folder))
    assert folder.picture.exists()
    assert "training" in (folder.logs(1) / "supervisor.log").read_text()


def test_a_detached_run_is_cancelled(root: Path) -> None:
    folder = make_run(root / "run", "be_stubborn")
    detach(folder)
    wait_until(lambda: followed(folder))
    assert queries.cancel_run(folder) == "cancelled"
    result = folder.read_result()
    assert result is not None
    assert (result.state, result.exit_code) == ("cancelled", 5)
    wait_until(lambda: not processes_of(folder))
    assert queries.cancel_run(folder) == "cancelled", "a run that has ended stays as it is"


def test_the_supervisor_of_a_detached_run_outlives_a_hangup(root: Path) -> None:
    """It has a session of its own: neither the terminal's end nor its Ctrl-C is meant for it."""
    folder = make_run(root / "run", "hang", ranks=1)
    detach(folder)
    wait_until(lambda: followed(folder, ranks=1))
    sessions = {process.pid: process.ppid() for process in processes_of(folder)}
    supervisor = psutil.Process(int(folder.read_handles()[0].job)).parent()
    assert supervisor is not None
    assert supervisor.pid in sessions
    assert supervisor.terminal() is None
    supervisor.send_signal(signal.SIGTERM)
    wait_until(lambda: queries.run_state(folder) == "cancelled")


def test_a_detached_run_that_cannot_start_says_why(root: Path) -> None:
    folder = make_run(root / "run", "hang", ranks=1)
    first = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    done = run_launch(folder, "detach", attempt=2)
    assert done.rc == 3
    assert "is running it already" in done.err
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)


def test_cancelling_a_followed_run_ends_its_command_with_5(root: Path) -> None:
    folder = make_run(root / "run", "hang", ranks=1)
    command = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    assert queries.cancel_run(folder) == "cancelled"
    command.communicate(timeout=30)
    assert command.returncode == 5


def test_status_tells_the_phase_then_the_result(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(root / "run", "hang", ranks=1)
    options = Options(json=True, root=root)
    command = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    assert verbs.status(["run"], options) == 0
    living = json.loads(capsys.readouterr().out)
    assert (living["state"], living["progress"]["phase"], living["progress"]["step"]) == (
        "running",
        "train",
        3,
    )
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert verbs.status([str(folder.root)], Options(root=root)) == 0
    assert "cancelled (attempt 1)" in capsys.readouterr().out


def test_logs_follow_until_the_run_ends(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(root / "run", "succeed_slowly_apart")
    detach(folder)
    assert verbs.logs(["run"], Options(follow=True, root=root)) == 0
    assert "rank 0 speaks" in capsys.readouterr().out
    assert queries.run_state(folder) == "succeeded"


def test_logs_of_one_rank(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(root / "run", ranks=1)
    assert run_launch(folder).rc == 0
    folder.rank_log(1, 0).write_text("I am rank 0\n")
    assert verbs.logs(["run"], Options(rank=0, root=root)) == 0
    assert capsys.readouterr().out == "I am rank 0\n"
    with pytest.raises(ConfigError, match="ranks 0 to 0"):
        verbs.logs(["run"], Options(rank=7, root=root))


def test_list_shows_all_runs_and_cancel_their_state(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, unsubmitted = make_run(root / "done", ranks=1), make_run(root / "new")
    assert run_launch(done).rc == 0
    assert verbs.list_runs([], Options(json=True, root=root)) == 0
    found = {run["name"]: run["state"] for run in json.loads(capsys.readouterr().out)}
    assert found == {"done": "succeeded", "new": "unknown"}
    assert verbs.list_runs([], Options(root=root)) == 0
    assert "eval/f1 0.8000" in capsys.readouterr().out
    assert verbs.cancel(["new"], Options(root=root)) == 0
    assert queries.run_state(unsubmitted) == "unknown"
