"""Failure classes, early stopping, meter, journal, evaluation's single forward."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.errors import CheckpointError, ConfigError, DiskFullError, Problem
from galley.rundir import RunFolder
from galley.schema import Eval, Recipe, Task
from galley.tasks import task_metrics
from galley.tasks.reports import own_metrics
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks
from trainer.run import throughput as meter_module
from trainer.run.early_stopping import EarlyStopping
from trainer.run.evaluation import OneForward
from trainer.run.failures import EngagementError, NonFiniteLossError, classify
from trainer.run.telemetry import Telemetry
from trainer.run.throughput import EvalMeter, Meter

CONFIG_ERROR = ConfigError(Problem("data.path", "has no label column"))


@pytest.mark.parametrize(
    ("error", "phase", "expected"),
    [
        (CONFIG_ERROR, "model", "configuration"),
        (CONFIG_ERROR, "data", "data"),
        (EngagementError("unwrapped"), "train", "configuration"),
        (CheckpointError("cut"), "model", "checkpoint"),
        (NonFiniteLossError("nan"), "train", "nan"),
        (FloatingPointError("scale"), "train", "nan"),
        (DiskFullError("full"), "save", "disk_full"),
        (OSError(errno.ENOSPC, "No space left on device"), "save", "disk_full"),
        (RuntimeError("[enforce fail at inline_container.cc] . file write failed: No space left on device"),
         "save", "disk_full"),
        (MemoryError(), "train", "oom"),
        (torch.OutOfMemoryError("CUDA out of memory"), "train", "oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
         "train", "oom"),
        (RuntimeError("Connection closed by peer [127.0.0.1]:5"), "train", "node"),
        (RuntimeError("Timed out waiting 15000ms for recv operation to complete"), "train", "hang"),
        (OSError(errno.EACCES, "Permission denied"), "save", "user"),
        (ValueError("a mistake in a task"), "train", "user"),
    ],
)  # fmt: skip
def test_every_error_has_its_class(error: Any, phase: Any, expected: Any) -> None:
    assert classify(error, phase) == expected


def test_patience_counts_evaluations_without_improvement() -> None:
    stopping = EarlyStopping("eval/f1", "maximize", patience=2)
    values = [0.5, 0.6, 0.6, float("nan")]
    assert [stopping.update({"eval/f1": value}) for value in values] == [False, False, False, True]
    assert (stopping.best, stopping.misses) == (0.6, 2)


def test_a_value_that_is_no_number_is_not_the_best_even_where_it_is_the_first() -> None:
    stopping = EarlyStopping("eval/f1", "maximize", patience=3)
    values = [float("nan"), 0.5, 0.6]
    assert [stopping.update({"eval/f1": value}) for value in values] == [False] * 3
    assert (stopping.best, stopping.misses) == (0.6, 0)


def test_a_metric_without_a_direction_ends_no_run() -> None:
    recipe = Recipe(task=Task("mine:Own"), eval=Eval(metric="eval/cer"))
    stopping = EarlyStopping.of(recipe, own_metrics({}))
    assert [stopping.update({"eval/cer": value}) for value in (0.5, 0.4)] == [False, False]
    assert EarlyStopping.of(recipe, own_metrics({"cer": "min"})).direction == "minimize"
    with pytest.raises(ConfigError, match="does not say which way 'eval/cer' is better"):
        EarlyStopping.of(replace(recipe, eval=replace(recipe.eval, patience=1)), own_metrics({}))


def test_early_stopping_goes_on_from_values_of_its_own_metric_only() -> None:
    stopping = EarlyStopping("eval/loss", "minimize", patience=2)
    stopping.resume("eval/f1", 0.1, 1)
    assert (stopping.best, stopping.misses) == (None, 0)
    stopping.resume("eval/loss", 0.7, 1)
    assert stopping.update({"eval/loss": 0.8})


def test_smaller_may_be_better_and_no_patience_never_stops() -> None:
    recipe = Recipe(task=Task("causal_lm"), eval=Eval(metric="eval/loss"))
    stopping = EarlyStopping.of(recipe, task_metrics(recipe))
    assert [stopping.update({"eval/loss": v}) for v in (1.0, 0.5, 0.7, 0.8, 0.9)] == [False] * 5
    assert stopping.best == 0.5


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"eval/f2(.|\n)*did you mean 'eval/f1'"):
        EarlyStopping("eval/f2", "maximize", None).update({"eval/f1": 0.5, "eval/accuracy": 0.5})


def test_pauses_and_first_steps_do_not_count(monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: now[0])
    meter = Meter()
    meter.resume()
    for duration in (10.0, 1.0, 1.0, 2.0, 2.0):
        now[0] += duration
        meter.count(samples=8, tokens=80)
    meter.pause()
    now[0] += 100.0
    meter.resume()
    now[0] += 2.0
    meter.count(samples=8, tokens=80)
    assert meter.train_s == 16.0
    assert meter.cut().samples_per_s == 48 / 18
    assert meter.steady() is not None
    assert meter.steady().samples_per_s == 4.0
    assert meter.steady().tokens_per_s == 40.0


def test_rows_after_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = Telemetry(folder, 1, is_main=True)
    for step in (1, 2, 3):
        first.row(step, step / 10, {"loss": 1.0 / step, "lr": 0.1})
    folder.metrics_file.open("a").write('{"step": 4, "cut')
    again = Telemetry(folder, 2, is_main=True)
    again.rewind(2)
    again.row(3, 0.3, {"loss": 0.25})
    rows = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert rows[2]["time_s"] >= rows[1]["time_s"]
    assert again.metrics() == {"train/loss": 0.25}


def test_progress_is_told_at_once_for_phases_and_sparingly_for_steps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    journal = Telemetry(folder, 1, is_main=True)
    journal.enter("train", 0, 100)
    journal.at_step(1)
    assert folder.read_progress().step == 0
    time.sleep(0.55)
    journal.at_step(2)
    assert (folder.read_progress().step, folder.read_progress().max_steps) == (2, 100)
    assert not RunFolder(tmp_path / "other").progress_file.exists()
    Telemetry(RunFolder(tmp_path / "other"), 1, is_main=False).enter("train")
    assert not (tmp_path / "other").exists()


def test_loss_and_predictions_share_one_forward() -> None:
    calls = []

    class Model(torch.nn.Module):
        def forward(self, x: Any, scale: Any = None) -> Any:
            calls.append(1)
            return x * 2

    model = OneForward(Model())
    one, other = torch.ones(2), torch.ones(2)
    assert model(one) is model(one)
    assert len(calls) == 1
    model(other)
    model(other, scale=other)
    assert len(calls) == 3


def test_the_first_batch_of_an_evaluation_does_not_count() -> None:
    ranks = Ranks(RankFacts(0, 1, 0, "none"), torch.device("cpu"), grouped=False)
    meter = EvalMeter()
    for seconds in (10.0, 1.0, 2.0, 3.0):
        meter.count(seconds, samples=6, tokens=60)
    speed = meter.speed(ranks)
    assert (speed.rates.samples_per_s, speed.rates.tokens_per_s, speed.latency_s) == (3.0, 30.0, 2.0)
    assert EvalMeter().speed(ranks).latency_s == 0.0
    alone = EvalMeter()
    alone.count(0.5, samples=1, tokens=10)
    assert alone.speed(ranks).latency_s == 0.5
