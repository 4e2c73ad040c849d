from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.image import imread

from galley.report.plot import draw, points, smooth
from galley.rundir import RunFolder
from tests.integration.local.standin import make_spec


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.write_spec(make_spec())
    return folder


def test_no_metrics_no_picture(folder: RunFolder) -> None:
    assert draw(folder) is None
    assert not folder.picture.exists()


@pytest.mark.parametrize("num_rows", [1, 5, 200])
@pytest.mark.parametrize("evaluated", [False, True])
def test_a_picture_of_any_length_of_run(folder: RunFolder, num_rows: int, evaluated: bool) -> None:
    for step in range(1, num_rows + 1):
        folder.append_metrics({"step": step, "loss": 1 / step, "lr": 1e-4})
    if evaluated:
        folder.append_metrics({"step": num_rows, "eval/loss": 0.5, "eval/f1": 0.8, "eval/accuracy": 0.8})
    assert draw(folder) == folder.picture
    pixels = imread(folder.picture)
    assert pixels.shape[0] >= 800
    blue = (pixels[:, :, 2] > 0.6) & (pixels[:, :, 0] < 0.3)
    assert blue.sum() > 20, "the loss is drawn"


def test_evaluation_alone_is_a_picture(folder: RunFolder) -> None:
    folder.append_metrics({"step": 3, "eval/f1": 0.8})
    assert draw(folder) == folder.picture


def test_a_loss_that_is_not_a_number_is_left_out(folder: RunFolder) -> None:
    folder.append_metrics({"step": 1, "loss": 0.5, "lr": 0.0})
    folder.append_metrics({"step": 2, "loss": math.nan, "lr": 0.0})
    assert points(list(folder.read_metrics()), "loss") == ([1.0], [0.5])
    assert draw(folder) == folder.picture


def test_a_step_that_was_repeated_after_a_resume_counts_once() -> None:
    rows = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3}]
    assert points(rows, "loss") == ([1.0, 2.0], [3.0, 2.0])


def test_smoothing_keeps_a_constant_and_does_not_lag() -> None:
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    line = [float(i) for i in range(200)]
    assert smooth(line)[20:-20] == pytest.approx(line[20:-20])
    assert len(smooth([1.0])) == 1
