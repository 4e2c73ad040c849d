from __future__ import annotations

from pathlib import Path

import pytest

from galley.errors import ConfigError, SubmissionError
from galley.rundir import RunFolder
from galley.spec import RunHandle, RunResult
from launchers.lifecycle import queries
from tests.integration.local.standin import make_spec


def seal(root: Path, name: str, **env: str) -> RunFolder:
    folder = RunFolder(root / name)
    folder.write_spec(make_spec(NAME=name, **env))
    return folder


def test_a_run_is_found_by_folder_name_prefix_and_sha256(tmp_path: Path) -> None:
    first, second = seal(tmp_path, "mrpc-ddp-aa"), seal(tmp_path, "mrpc-zero2-bb")
    for word in (str(first.root), "mrpc-ddp-aa", "mrpc-d", first.read_spec().sha256[:8]):
        assert queries.find_run(word, tmp_path).root == first.root
    assert queries.find_run("mrpc-z", tmp_path).root == second.root


def test_a_whole_name_wins_over_a_longer_one(tmp_path: Path) -> None:
    short, _ = seal(tmp_path, "run"), seal(tmp_path, "run-2")
    assert queries.find_run("run", tmp_path).root == short.root


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mrpc", "means 2 runs"),
        ("mrpc-dpd-aa", "did you mean 'mrpc-ddp-aa'"),
        ("", "is no run"),
        (".", "is no run"),
    ],
)
def test_an_unclear_word_names_what_there_is(tmp_path: Path, word: str, message: str) -> None:
    seal(tmp_path, "mrpc-ddp-aa")
    seal(tmp_path, "mrpc-zero2-bb")
    with pytest.raises(ConfigError, match=message):
        queries.find_run(word, tmp_path)


def test_states_without_a_process(tmp_path: Path) -> None:
    folder = seal(tmp_path, "run")
    assert queries.run_state(folder) == "unknown"
    handle = RunHandle("local", 1, "999999999", "another-host", 0.0, 1.0)
    folder.write_handles([handle])
    assert queries.run_state(folder) == "unknown", "its processes cannot be seen from here"
    with pytest.raises(SubmissionError, match="another-host"):
        queries.cancel_run(folder)
    folder.write_result(RunResult("succeeded", 0, attempts=1))
    assert queries.run_state(folder) == "succeeded"
    folder.write_handles([handle, RunHandle("local", 2, "999999999", "another-host", 0.0, 1.0)])
    assert queries.run_state(folder) == "unknown", "the result is that of attempt 1"


def test_logs_of_a_run_that_was_never_submitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was never submitted"):
        list(queries.log_lines(seal(tmp_path, "run"), None, follow=False))


def test_an_empty_or_missing_root_has_no_runs(tmp_path: Path) -> None:
    assert queries.list_runs(tmp_path) == []
    assert queries.list_runs(tmp_path / "missing") == []
