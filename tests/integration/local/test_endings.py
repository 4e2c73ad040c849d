"""How a run ends: the command as a process of its own, real torchrun, stand-in ranks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import RunResult
from launchers.lifecycle import queries
from tests.integration.local.standin import (
    end_all,
    followed,
    last_json,
    make_run,
    make_spec,
    processes_of,
    run_launch,
    start_launch,
    wait_until,
)


@pytest.fixture
def root(weird_tmp_path: Path) -> Iterator[Path]:
    folder = weird_tmp_path / "a\nrun"
    yield folder
    end_all(RunFolder(folder))


def the_result(folder: RunFolder) -> RunResult:
    result = folder.read_result()
    assert result is not None
    return result


def assert_failed(folder: RunFolder, rank: int, failure_class: str) -> None:
    result = the_result(folder)
    assert (result.state, result.first_failed_rank, result.failure_class) == ("failed", rank, failure_class)
    assert processes_of(folder) == []


def test_success_shows_a_table_and_the_folder(root: Path) -> None:
    folder = make_run(root)
    done = run_launch(folder)
    assert done.rc == 0, done.err
    assert "eval/f1" in done.out
    assert "0.8000" in done.out
    assert done.out.rstrip().endswith(str(root))
    assert folder.picture.stat().st_size > 10_000
    assert the_result(folder).state == "succeeded"
    assert processes_of(folder) == []
    assert (folder.plan / "launch.json").stat().st_mode & 0o777 == 0o600


def test_with_json_the_last_line_is_the_result_and_progress_goes_to_stderr(root: Path) -> None:
    folder = make_run(root, ranks=1)
    done = run_launch(folder, "json")
    assert len(done.out.splitlines()) == 1
    body = last_json(done.out)
    assert (body["state"], body["run_dir"], body["metrics"]["eval/f1"]) == ("succeeded", str(root), 0.8)
    assert "training" in done.err


def test_a_rank_that_fails_ends_the_others_and_shows_its_traceback(root: Path) -> None:
    folder = make_run(root, "raise_on_one_rank", STANDIN_RANK="1")
    done = run_launch(folder)
    assert done.rc == 4
    assert "rank 1 failed (user):\nTraceback" in done.err
    assert "ValueError: the stand-in is unhappy" in done.err
    assert "ChildFailedError" not in done.out + done.err
    assert "ChildFailedError" in (folder.logs(1) / "launcher.log").read_text()
    assert_failed(folder, 1, "user")
    error = folder.read_rank_errors(1)[0]
    assert folder.result_file.stat().st_mtime - error.time < 5


def test_a_mistake_in_the_request_is_one_message_and_exit_code_2(root: Path) -> None:
    folder = make_run(root, "ask_for_better_configuration", ranks=1)
    done = run_launch(folder)
    assert done.rc == 2
    assert "data.path: there is no such column" in done.err
    assert "Traceback" not in done.err
    assert_failed(folder, 0, "data")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_that_is_killed_is_named_with_its_signal(root: Path, ranks: int) -> None:
    folder = make_run(root, "be_killed", ranks, STANDIN_RANK=str(ranks - 1))
    done = run_launch(folder)
    assert done.rc == 4
    assert f"rank {ranks - 1} was killed by SIGKILL" in done.err
    assert_failed(folder, ranks - 1, "node")


def test_ranks_that_ignore_the_end_of_another_are_killed_within_seconds(root: Path) -> None:
    folder = make_run(root, "be_killed_among_the_stubborn", STANDIN_RANK="1")
    command = start_launch(folder)
    wait_until(lambda: (folder.root / "pid-0").exists())
    started = time.monotonic()
    _, err = command.communicate(timeout=60)
    assert time.monotonic() - started < 6  # 0.3 s to the death of rank 1, then under 5 s
    assert "rank 1 was killed by SIGSEGV" in err
    assert_failed(folder, 1, "node")


def test_a_worker_that_says_nothing_is_quoted(root: Path) -> None:
    folder = make_run(root, "say_and_leave", ranks=1)
    done = run_launch(folder)
    assert done.rc == 4
    assert "I have nothing to do" in done.err
    assert "ended without a result" in done.err


def test_a_worker_that_cannot_be_imported_is_quoted(root: Path) -> None:
    folder = make_run(root)
    (folder.code / "trainer/worker.py").write_text("import no_such_thing\n")
    done = run_launch(folder)
    assert done.rc == 4
    assert "ModuleNotFoundError: No module named 'no_such_thing'" in done.err
    assert "torch/distributed" not in done.err


def test_ranks_may_end_seconds_apart(root: Path) -> None:
    folder = make_run(root, "succeed_slowly_apart")
    assert run_launch(folder).rc == 0


@pytest.mark.parametrize(
    ("behavior", "ranks", "number", "exit_code"),
    [
        ("hang", 2, signal.SIGINT, 130),
        ("be_stubborn", 2, signal.SIGINT, 130),
        ("hang", 1, signal.SIGTERM, 5),
        ("hang", 1, signal.SIGHUP, 5),
    ],
)
def test_a_signal_to_the_command_ends_everything_within_5_s(
    root: Path, behavior: str, ranks: int, number: signal.Signals, exit_code: int
) -> None:
    folder = make_run(root, behavior, ranks)
    command = start_launch(folder)
    wait_until(lambda: followed(folder, ranks))
    started = time.monotonic()
    command.send_signal(number)
    _, err = command.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert command.returncode == exit_code
    assert processes_of(folder) == []
    result = the_result(folder)
    assert (result.state, result.exit_code, result.steps) == ("cancelled", exit_code, 3)
    assert number.name in err


def test_ctrl_c_while_the_processes_start(root: Path) -> None:
    folder = make_run(root, "hang")
    command = start_launch(folder)
    wait_until(folder.launch_file.exists)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 130
    assert processes_of(folder) == []
    assert the_result(folder).state == "cancelled"


def test_a_second_ctrl_c_waits_for_nothing(root: Path) -> None:
    folder = make_run(root, "be_stubborn", ranks=1)
    folder.write_spec(make_spec("be_stubborn", ranks=1, grace_s=60.0))
    command = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    started = time.monotonic()
    command.send_signal(signal.SIGINT)
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert processes_of(folder) == []
    assert the_result(folder).state == "cancelled"


def test_a_killed_command_takes_the_ranks_with_it(root: Path) -> None:
    folder = make_run(root, "hang")
    command = start_launch(folder)
    wait_until(lambda: followed(folder))
    assert queries.run_state(folder) == "running"
    command.kill()
    command.communicate(timeout=10)
    wait_until(lambda: not processes_of(folder), timeout=10)
    assert queries.run_state(folder) == "failed"


def test_ranks_that_outlive_their_agent_are_found_and_cancelled(root: Path) -> None:
    folder = make_run(root, "be_stubborn")
    command = start_launch(folder)
    wait_until(lambda: followed(folder))
    os.kill(command.pid, signal.SIGKILL)
    os.kill(int(folder.read_handles()[0].job), signal.SIGKILL)
    command.communicate(timeout=10)
    assert len(processes_of(folder)) == 2
    assert queries.run_state(folder) == "running"
    refused = run_launch(folder, attempt=2)
    assert (refused.rc, "attempt 1 is still running" in refused.err) == (3, True)
    assert queries.cancel_run(folder) == "cancelled"
    assert processes_of(folder) == []
    assert the_result(folder).state == "cancelled"


def test_two_commands_cannot_run_one_folder(root: Path) -> None:
    folder = make_run(root, "hang", ranks=1)
    first = start_launch(folder)
    wait_until(lambda: followed(folder, ranks=1))
    second = run_launch(folder)
    assert (second.rc, f"process {first.pid} is running it already" in second.err) == (3, True)
    assert len(folder.read_handles()) == 1
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)


def test_a_later_attempt_replaces_the_result_and_is_recorded(root: Path) -> None:
    folder = make_run(root, "raise_on_one_rank", ranks=1)
    assert run_launch(folder).rc == 4
    folder.write_spec(make_spec("succeed", ranks=1))
    assert run_launch(folder, attempt=2).rc == 0
    assert [handle.attempt for handle in folder.read_handles()] == [1, 2]
    assert (the_result(folder).state, the_result(folder).attempts) == ("succeeded", 2)


def test_files_of_the_users_folder_are_never_imported(root: Path, tmp_path: Path) -> None:
    folder = make_run(root)
    for name in ("trainer.py", "torch.py", "galley.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')\n")
    command = start_launch(folder, cwd=tmp_path)
    out, err = command.communicate(timeout=60)
    assert command.returncode == 0, err
    assert "the wrong file" not in out + err
