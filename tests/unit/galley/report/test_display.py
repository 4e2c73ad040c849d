from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from galley.report import display
from galley.report.display import MetricsTail, PlainDisplay, format_s
from galley.report.summary import show_failure, show_result
from galley.rundir import RunFolder
from galley.spec import Progress, RunResult
from tests.integration.local.standin import make_spec


def test_the_tail_gives_every_whole_row_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n')
    tail = MetricsTail(file)
    assert list(tail.read()) == [], "what an earlier attempt wrote is not news"
    with file.open("a") as stream:
        stream.write('{"step": 2}\n{"step"')
        stream.flush()
        assert list(tail.read()) == [{"step": 2}]
        assert list(tail.read()) == []
        stream.write(": 3}\n")
        stream.flush()
        assert list(tail.read()) == [{"step": 3}]


def test_the_tail_survives_rows_that_a_resumed_run_drops(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tail = MetricsTail(file)
    assert list(tail.read()) == []
    file.write_text('{"step": 1}\n{"step": 2}\n')
    assert len(list(tail.read())) == 2
    file.write_text('{"step": 1}\n')
    assert list(tail.read()) == []
    with file.open("a") as stream:
        stream.write('{"step": 2}\n')
    assert list(tail.read()) == [{"step": 2}]


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    monotonic = time


def test_plain_lines_tell_phases_steps_and_eta_without_flooding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, out, folder = Clock(), io.StringIO(), RunFolder(tmp_path)
    monkeypatch.setattr(display, "time", clock)
    shown = PlainDisplay(folder, 1, out)
    shown.update()
    folder.write_progress(Progress("train", 0, 100, 1, clock.now))
    shown.update()
    for step in range(1, 21):  # 20 rows in 2 s
        clock.now += 0.1
        folder.append_metrics({"step": step, "loss": 0.5, "lr": 1e-4, "samples_per_s": 320.0})
        shown.update()
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["starting the processes", "training"]
    assert 2 <= len(lines) - 2 <= 3, "at most one a second"
    assert lines[-1].startswith("step ")
    assert (
        lines[-1].endswith("loss 0.5000  lr 1.00e-04  320.0 samples/s  ETA 0:09") or "ETA 0:08" in lines[-1]
    )


def test_evaluations_within_training_change_no_phase_line(tmp_path: Path) -> None:
    out, folder = io.StringIO(), RunFolder(tmp_path)
    shown = PlainDisplay(folder, 1, out)
    for phase in ("train", "eval", "train", "eval", "save"):
        folder.write_progress(Progress(phase, 1, 2, 1, 0.0))
        shown.update()
    assert out.getvalue().splitlines() == ["training", "saving"]


def test_the_progress_of_an_earlier_attempt_is_not_shown(tmp_path: Path) -> None:
    out, folder = io.StringIO(), RunFolder(tmp_path)
    folder.write_progress(Progress("done", 9, 9, 1, 0.0))
    PlainDisplay(folder, 2, out).update()
    assert out.getvalue().splitlines() == ["starting the processes"]


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "0:07"), (750.0, "12:30"), (3723.0, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert format_s(seconds) == text


def test_the_folder_is_the_last_line_whatever_its_length(tmp_path: Path) -> None:
    out, folder = io.StringIO(), RunFolder(tmp_path / ("[bold]" + "x" * 200))
    show_result(folder, make_spec(), RunResult("succeeded", 0, steps=3, metrics={"eval/f1": 0.5}), None, out)
    assert out.getvalue().splitlines()[-1] == str(folder.root)
    assert "0.5000" in out.getvalue()


def test_a_users_mistake_shows_no_traceback_and_a_crash_does(tmp_path: Path) -> None:
    result = RunResult("failed", 4, message="it is so", first_failed_rank=1, failure_class="user")
    out = io.StringIO()
    show_failure(result, "Traceback …\nValueError: it is so\n", [tmp_path / "rank-1.log"], out)
    assert "rank 1 failed (user):\nTraceback …" in out.getvalue()
    assert str(tmp_path / "rank-1.log") in out.getvalue()
    out = io.StringIO()
    show_failure(replace(result, failure_class="data"), "Traceback …", [], out)
    assert "it is so" in out.getvalue()
    assert "Traceback" not in out.getvalue()


def test_rows_that_are_json_but_odd_do_not_break_the_display(tmp_path: Path) -> None:
    out, folder = io.StringIO(), RunFolder(tmp_path)
    shown = PlainDisplay(folder, 1, out)
    folder.metrics_file.write_text(
        json.dumps({"step": 1, "loss": None}) + "\n" + json.dumps({"eval/n": 3}) + "\n"
    )
    shown.update()
    shown.close()
    assert "step 1" in out.getvalue()
