"""Bad data on the command line: refused before anything starts, exit code 2, all problems at once."""

from __future__ import annotations

from pathlib import Path

from tests.support import run_galley


def test_bad_data_stops_the_command_with_every_problem(tmp_path: Path) -> None:
    data, runs = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    (data / "train.csv").write_bytes(b"text,label\na,0\nb,-7\n")
    (data / "dev.csv").write_bytes(b"text,label\n\xe9,1\n")
    finished = run_galley(["run", f"data.path={data}", f"run_dir={runs}"], cwd=tmp_path)
    assert finished.rc == 2
    assert f"{data}/train.csv:3: column 'label': '-7' is not a class number (0, 1, …)" in finished.err
    assert f"{data}/dev.csv:2: is not UTF-8: byte 0xe9 at offset 11" in finished.err
    assert "Traceback" not in finished.err
    assert not runs.exists()


def test_good_data_is_planned(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("text,label\na,0\nb,1\n")
    finished = run_galley(["plan", f"data.path={tmp_path}", "--json"], cwd=tmp_path)
    assert finished.rc == 0, finished.err
