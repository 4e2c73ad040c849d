"""Which way each metric is better: what a perfect prediction scores, against what a worse one does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu

from cli.prepare import direction_warnings
from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError, Problem
from galley.metrics import (
    RUN_METRICS,
    is_better,
    watched,
)
from galley.registry import TASKS
from galley.schema import Checkpoint, Eval, Hpo, Recipe, Seq2Seq, Task
from galley.tasks import built_in_tasks, known_metrics, task_metrics, task_of
from galley.tasks.reports import declared_reports, own_metrics, reports_problems
from hpo.objectives import directions, read_objectives
from hpo.study.values import Objective
from trainer.metrics.entities import entity_metrics
from trainer.metrics.regression import regression_metrics
from trainer.metrics.retrieval import retrieval_metrics
from trainer.metrics.squad import squad_metrics
from trainer.tasks.language_modeling import perplexity
from trainer.tasks.multi_label import multi_label_metrics
from trainer.tasks.sequence_classification import classification_metrics

EYE = np.eye(4)
ANSWERS = {"a": ["red"], "b": []}


def classified(right: bool) -> dict[str, float]:
    return classification_metrics(60.0 * (EYE if right else EYE[[1, 0, 2, 3]]), np.arange(4), 4)


def texts(right: bool) -> dict[str, float]:
    said, wanted = (
        ["the cat sat on the mat" if right else "a dog sat on the rug"],
        [["the cat sat on the mat"]],
    )
    corpus = (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf)
    return dict(zip(("bleu", "chrf"), (score(said, wanted).score for score in corpus), strict=True))


MEASURES: dict[str, Any] = {
    "sequence_classification": classified,
    "distillation": classified,
    "multi_label_classification": lambda right: multi_label_metrics(
        EYE > 0 if right else EYE[[1, 0, 2, 3]] > 0, EYE > 0
    ),
    "sequence_regression": lambda right: regression_metrics(
        np.arange(4.0) if right else np.array([0.0, 2.0, 1.0, 3.0]), np.arange(4.0)
    ),
    "question_answering": lambda right: squad_metrics(
        {"a": "red", "b": ""} if right else {"a": "blue", "b": "red"}, ANSWERS
    ),
    "token_classification": lambda right: entity_metrics(
        [["B-PER", "O", "B-LOC" if right else "B-PER"]], [["B-PER", "O", "B-LOC"]]
    ),
    "contrastive": lambda right: retrieval_metrics(EYE, EYE if right else EYE[[1, 0, 2, 3]]),
    "causal_lm": lambda right: {"perplexity": perplexity(0.0 if right else 2.0)},
    "masked_lm": lambda right: {"perplexity": perplexity(0.0 if right else 2.0)},
    "masked_lm_distillation": lambda right: {"perplexity": perplexity(0.0 if right else 2.0)},
    "seq2seq": texts,
}


@pytest.mark.parametrize("kind", TASKS.built_in)
def test_a_perfect_prediction_scores_the_best_value_and_a_worse_one_a_worse_value(kind: str) -> None:
    perfect, worse = MEASURES[kind](True), MEASURES[kind](False)
    for name, value in perfect.items():
        metric = task_of(Recipe(task=Task(kind))).metrics[f"eval/{name}"]
        assert value == pytest.approx(metric.best, abs=1e-9), name
        assert is_better(value, worse[name], metric.direction), name
        assert metric.low <= worse[name] <= metric.high, name


def test_every_metric_of_the_table_has_the_direction_that_the_field_gives_it() -> None:
    smaller = {"eval/loss", "eval/perplexity", "eval/mse", "latency_s", "wall_s", "train_s",
               "peak_memory_gib", "cost", "energy_kwh", "co2_eq_kg", "train/loss"}  # fmt: skip
    every = [RUN_METRICS, *(task.metrics for task in built_in_tasks())]
    found = {name for table in every for name, metric in table.items() if metric.direction == "minimize"}
    assert found == smaller


@pytest.mark.parametrize(
    ("kind", "metric", "direction"),
    [
        ("causal_lm", "eval/perplexity", "minimize"),
        ("masked_lm", "eval/perplexity", "minimize"),
        ("sequence_regression", "eval/mse", "minimize"),
        ("sequence_regression", "eval/spearman", "maximize"),
        ("seq2seq", "eval/chrf", "maximize"),
    ],
)
def test_objectives_and_early_stopping_have_one_direction(kind: str, metric: str, direction: str) -> None:
    recipe = Recipe(task=Task(kind), eval=Eval(metric=metric), hpo=Hpo("random", objectives=[metric]))
    assert read_objectives(recipe)[0] == (Objective(metric, direction),)
    assert watched(recipe, task_metrics(recipe)) == (metric, direction)


def test_ranges_are_those_of_the_task() -> None:
    """F1 of questions is in percent, that of classes a share."""
    sought: Any = [{"metric": "eval/f1", "bound": 80.0}]
    asked = Recipe(task=Task("question_answering"), hpo=Hpo("random", objectives=sought))
    assert read_objectives(asked)[0][0].bound == 80.0
    with pytest.raises(ConfigError, match=r"'eval/f1' is never above 80.*\n.*valid: 0 to 1"):
        read_objectives(replace(asked, task=Task("sequence_classification")))
    unreachable: Any = [{"metric": "eval/loss", "max": -1.0}]
    with pytest.raises(ConfigError, match="'eval/loss' is never below -1"):
        read_objectives(replace(asked, hpo=replace(asked.hpo, constraints=unreachable)))


def test_a_sequence_to_sequence_run_that_generates_nothing_has_its_loss_alone() -> None:
    recipe = Recipe(task=Task("seq2seq", seq2seq=Seq2Seq(generate=False)))
    assert [*task_metrics(recipe)] == ["eval/loss"]
    assert "eval/bleu" not in known_metrics(recipe)


OWN = """
from trainer.tasks.base import Task as Base
class Common(Base):
    reports = {"cer": "min"}
class Speech(Common):
    pass
class Loud(Common):
    reports: dict = {"wer": "minimize", "words": "max"}
class Odd(Base):
    reports = {"cer": "down"}
class Made(Base):
    reports = dict(cer="min")
    print("never executed")
    raise SystemExit
"""


def own(tmp_path: Path, name: str, **settings: Any) -> Recipe:
    (tmp_path / "speech.py").write_text(OWN)
    return Recipe(task=Task(f"speech:{name}"), plugins=[str(tmp_path)], **settings)


@pytest.mark.parametrize(
    ("name", "reports"),
    [
        ("Speech", {"cer": "min"}),
        ("Loud", {"wer": "minimize", "words": "max"}),
        ("Made", {}),
        ("Missing", {}),
    ],
)
def test_a_task_of_ones_own_declares_directions_that_are_read_and_not_executed(
    tmp_path: Path, name: str, reports: dict[str, str]
) -> None:
    recipe = own(tmp_path, name)
    assert declared_reports(recipe.task.kind, [tmp_path]) == reports
    assert [*task_metrics(recipe)] == ["eval/loss", *(f"eval/{metric}" for metric in reports)]


def test_a_direction_of_ones_own_metric_is_never_guessed(tmp_path: Path) -> None:
    sought = Hpo("random", objectives=["eval/cer"])
    assert read_objectives(own(tmp_path, "Speech", hpo=sought))[0] == (Objective("eval/cer", "minimize"),)
    with pytest.raises(ConfigError, match=r"which way 'eval/cer' is better(.|\n)*reports = \{'cer': 'min'\}"):
        read_objectives(own(tmp_path, "Made", hpo=sought))
    stated = own(tmp_path, "Made", hpo=Hpo("random", objectives=["eval/cer:min"]))
    assert read_objectives(stated)[0] == (Objective("eval/cer", "minimize"),)


@pytest.mark.parametrize(
    ("name", "mode", "complains"), [("Made", None, True), ("Made", "min", False), ("Speech", None, False)]
)
def test_early_stopping_by_ones_own_metric_needs_a_direction(
    tmp_path: Path, name: str, mode: Any, complains: bool
) -> None:
    recipe = own(tmp_path, name, eval=Eval(metric="eval/cer", mode=mode, every_steps=2, patience=3))
    found = [problem for problem in recipe_problems(recipe) if problem.where == "eval.mode"]
    assert bool(found) == complains


def test_a_word_that_is_no_direction_is_named(tmp_path: Path) -> None:
    what = "reports of 'speech:Odd' has 'down' for 'cer', which is not a direction"
    assert list(reports_problems(own(tmp_path, "Odd"))) == [Problem("task.kind", what, "valid: max, min")]
    assert own_metrics({"cer": "down"}) == own_metrics({})


def test_a_bound_of_the_choice_has_the_direction_of_its_metric(tmp_path: Path) -> None:
    choose = replace(Hpo().choose, by="epsilon", bounds={"eval/accuracy": 0.5, "peak_memory_gib": 2.0})
    recipe = Recipe(task=Task("sequence_classification"), hpo=Hpo("random", objectives=["eval/f1:min"]))
    recipe = replace(recipe, hpo=replace(recipe.hpo, choose=choose))
    objectives, _ = read_objectives(recipe)
    known = directions(recipe, objectives)
    assert {name: known[name] for name in (*choose.bounds, "eval/f1")} == {
        "eval/accuracy": "maximize", "peak_memory_gib": "minimize", "eval/f1": "minimize",
    }  # fmt: skip
    bounds = {"eval/cer": 0.5}
    mine = own(tmp_path, "Made", hpo=replace(recipe.hpo, objectives=["eval/loss"],
                                             choose=replace(choose, bounds=bounds)))  # fmt: skip
    with pytest.raises(
        ConfigError,
        match=r"bounds\.eval/cer: does not say which way.*\n.*make it an objective, eval/cer:max",
    ):
        read_objectives(mine)


@pytest.mark.parametrize(
    ("settings", "objectives", "warnings"),
    [
        ({}, ["eval/loss:min", "eval/f1", "samples_per_s:max"], []),
        (
            {},
            ["eval/f1:max", "eval/loss:max"],
            ["hpo.objectives[1] is to maximize 'eval/loss', of which the smaller is better (minimize)"],
        ),
        (
            {"eval": Eval(mode="min", patience=2)},
            ["eval/f1"],
            ["eval.mode=min is to minimize 'eval/f1', of which the greater is better (maximize)"],
        ),
        ({"eval": Eval(metric="eval/loss", mode="min")}, ["eval/f1"], []),
        ({"checkpoint": Checkpoint(keep_best="eval/loss:min")}, ["eval/f1"], []),
        (
            {"checkpoint": Checkpoint(keep_best="eval/loss:max")},
            [{"metric": "wall_s", "direction": "maximize"}],
            [
                "checkpoint.keep_best=eval/loss:max is to maximize 'eval/loss', of which the smaller is "
                "better (minimize)",
                "hpo.objectives[0] is to maximize 'wall_s', of which the smaller is better (minimize)",
            ],
        ),
    ],
)
def test_a_direction_against_the_table_is_a_warning(
    settings: dict[str, Any], objectives: list[Any], warnings: list[str]
) -> None:
    sweep = Hpo("random", objectives=objectives)
    assert direction_warnings(Recipe(hpo=sweep, **settings)) == warnings
    assert direction_warnings(Recipe(**settings)) == [w for w in warnings if not w.startswith("hpo")]


def test_a_direction_of_ones_own_metric_is_held_against_its_class(tmp_path: Path) -> None:
    sought = Hpo("random", objectives=["eval/cer:max"])
    assert len(direction_warnings(own(tmp_path, "Speech", hpo=sought))) == 1
    assert direction_warnings(own(tmp_path, "Made", hpo=sought)) == []


def test_no_number_is_never_better() -> None:
    assert not is_better(math.nan, None, "maximize")
    assert not is_better(math.nan, 0.5, "minimize")
    assert is_better(0.5, None, "minimize")
    assert not is_better(0.5, 0.5, "maximize")
