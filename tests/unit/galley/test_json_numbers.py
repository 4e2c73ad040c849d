"""Result and metrics files are JSON for every reader, also when a metric is not a finite number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from galley.report.display import MetricsTail
from galley.report.plot import points
from galley.rundir import RunFolder
from galley.spec import RunResult
from trainer.run.telemetry import Telemetry

ROW = {"step": 3, "eval/loss": math.nan, "eval/perplexity": math.inf, "eval/f1": -math.inf, "loss": None}
STRICT = {"step": 3, "eval/loss": "NaN", "eval/perplexity": "Infinity", "eval/f1": "-Infinity", "loss": None}


def strict(text: str) -> Any:
    """As a parser that knows only RFC 8259."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def same(found: dict[str, Any]) -> bool:
    return repr(found) == repr(ROW)  # NaN equals nothing


def test_rows_are_strict_json_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tail = MetricsTail(folder.metrics_file)
    folder.append_metrics(ROW)
    assert strict(folder.metrics_file.read_text()) == STRICT
    (row,) = folder.read_metrics()
    (tailed,) = tail.read()
    assert same(row)
    assert same(tailed)


def test_bare_words_of_older_files_are_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text(json.dumps(ROW) + "\n")
    (row,) = folder.read_metrics()
    assert same(row)


def test_results_are_strict_json_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_result(RunResult("succeeded", 0, metrics={"eval/loss": math.nan, "eval/f1": math.inf}))
    assert strict(folder.result_file.read_text())["metrics"] == {"eval/loss": "NaN", "eval/f1": "Infinity"}
    found = folder.read_result()
    assert found is not None
    assert math.isnan(found.metrics["eval/loss"])
    assert found.metrics["eval/f1"] == math.inf


def test_a_null_loss_is_no_point_of_the_curve() -> None:
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    assert points(rows, "loss") == ([1.0], [0.5])


def test_the_last_measured_loss_is_the_metric_of_the_run(tmp_path: Path) -> None:
    journal = Telemetry(RunFolder(tmp_path), 1, is_main=True)
    journal.row(1, 0.5, {"loss": 0.25})
    journal.row(2, 1.0, {"loss": None})
    journal.row(2, 1.0, {"eval/loss": math.nan})
    assert journal.metrics()["train/loss"] == 0.25
    journal.rewind(2)
    assert math.isnan(journal.metrics()["eval/loss"])
    assert [strict(line)["step"] for line in RunFolder(tmp_path).metrics_file.read_text().splitlines()] == [
        1,
        2,
        2,
    ]
