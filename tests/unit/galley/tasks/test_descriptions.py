"""Descriptions of tasks: what each supports, one of an installed package, who knows their names."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.registry import TASKS
from galley.schema import Batch, Data, Eval, Recipe, Strategy, Task
from galley.tasks import TaskDescription, built_in_tasks, known_metrics, names_of, task_of
from galley.tasks.options import read_options
from tests.support import REPO

LABELED = ["distillation", "multi_label_classification", "sequence_classification", "sequence_regression"]
TEXTS = ["causal_lm", "masked_lm", "masked_lm_distillation"]
SUPPORTED: list[tuple[Callable[[TaskDescription], bool], list[str]]] = [
    (lambda task: task.labeled, LABELED),
    (lambda task: task.learns_names, [*LABELED, "token_classification"]),
    (lambda task: task.streamed, TEXTS),
    (lambda task: task.taught, ["distillation", "masked_lm_distillation"]),
    (lambda task: task.headed, ["causal_lm"]),
    (lambda task: task.one_source_batches, ["contrastive"]),
    (lambda task: not task.special_tokens, ["causal_lm"]),
    (lambda task: task.pipeline_parallel, ["causal_lm"]),
    (lambda task: task.answered_tokens is not None, [*TEXTS, "seq2seq"]),
    (lambda task: task.hub_task is None, ["seq2seq"]),
    (
        lambda task: task.tensor_parallel,
        [
            "causal_lm", "masked_lm", "multi_label_classification", "question_answering",
            "sequence_classification", "sequence_regression", "token_classification",
        ],
    ),
]  # fmt: skip


def test_every_description_has_the_name_by_which_it_is_found_and_a_config_option() -> None:
    assert [task.name for task in built_in_tasks()] == [*TASKS.built_in]
    assert {task.name for task in built_in_tasks()} == {
        file.stem for file in (REPO / "conf" / "task").glob("*.yaml")
    }


@pytest.mark.parametrize(("supports", "tasks"), SUPPORTED)
def test_tasks_support_what_their_torch_half_does(
    supports: Callable[[TaskDescription], bool], tasks: list[str]
) -> None:
    assert names_of(supports) == sorted(tasks)


def test_a_class_of_the_user_s_and_an_unknown_name_are_described_without_an_import() -> None:
    own = task_of(Recipe(task=Task("nowhere:Mine")))
    assert (own.own, own.tensor_parallel, own.pipeline_parallel, own.reports_any) == (True, True, False, True)
    unknown = task_of(Recipe(task=Task("sequence_clasification")))
    assert (unknown.own, unknown.implementation, unknown.tensor_parallel) == (False, "", False)


PACKAGE = """
from dataclasses import dataclass
from galley.data.roles import Role
from galley.metrics import Metric
from galley.tasks.base import TaskDescription

@dataclass(frozen=True)
class Options:
    beam: int = 1
    language: str = "en"

TASK = TaskDescription(
    name="speech",
    implementation="speech_task.torch_half:Speech",
    metrics={"eval/wer": Metric("minimize", 0.0)},
    roles=(Role("text", ("sentence",)),),
    searched=("task.options.beam",),
    options=Options,
)
OTHER = dict
"""
POINTS = "[galley.tasks]\nspeech = speech_task:TASK\nodd = speech_task:OTHER\ngone = speech_task:NOTHING\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with entry points, as pip unpacks one."""
    info = tmp_path / "speech_task-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: speech-task\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (tmp_path / "speech_task").mkdir()
    (tmp_path / "speech_task" / "__init__.py").write_text(PACKAGE)
    half = "raise SystemExit('the torch half is imported by the worker alone')\n"
    (tmp_path / "speech_task" / "torch_half.py").write_text(half)
    monkeypatch.syspath_prepend(tmp_path)
    TASKS.__dict__.pop("installed", None)
    yield
    TASKS.__dict__.pop("installed", None)
    sys.modules.pop("speech_task", None)


def speech(tmp_path: Path, **settings: Any) -> Recipe:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    for name in ("train", "dev"):
        (folder / f"{name}.jsonl").write_text('{"sentence": "a"}\n')
    task = Task("speech", options=settings.pop("options", {}))
    return replace(Recipe(task=task, data=Data(path=str(folder)), batch=Batch(8)), **settings)


@pytest.mark.usefixtures("installed")
def test_an_installed_description_is_checked_as_galley_s_own_are(tmp_path: Path) -> None:
    right = speech(tmp_path, options={"beam": 4})
    assert recipe_problems(right) == []
    assert read_options(task_of(right), right.task.options) == task_of(right).options(beam=4)  # type: ignore[misc]
    assert known_metrics(right)["eval/wer"].direction == "minimize"
    wrong = speech(
        tmp_path, options={"beem": 2, "language": 3}, eval=Eval(metric="eval/f1"),
        strategy=Strategy(name="tp", tensor_parallel=2),
    )  # fmt: skip
    wrong = replace(wrong, data=replace(wrong.data, columns={"sound": "x"}))
    problems = {problem.where: str(problem) for problem in recipe_problems(wrong)}
    assert {*problems} >= {
        "task.options.beem", "task.options.language", "eval.metric", "data.columns.sound", "task.kind",
    }  # fmt: skip
    assert "did you mean 'beam'" in problems["task.options.beem"]
    assert "valid string" in problems["task.options.language"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("kind", "what"), [("odd", "is not a galley.tasks.base.TaskDescription"), ("gone", "has no 'NOTHING'")]
)
def test_an_entry_point_that_leads_elsewhere_is_refused(kind: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        task_of(Recipe(task=Task(kind)))


MAY_NAME_TASKS = ("galley/tasks/", "trainer/tasks/")
NAMED_ELSEWHERE = {
    "galley/registry.py": {*TASKS.built_in},
    # The default of `task.kind`.
    "galley/schema/task.py": {"sequence_classification"},
}


def names_in(file: Path) -> set[str]:
    """Names of tasks that stand alone in a source file: in comparisons, tables and defaults."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {str(text) for text in texts if text in TASKS.built_in}


def test_only_descriptions_and_torch_halves_know_the_names_of_tasks() -> None:
    packages = ("cli", "galley", "trainer", "launchers", "hpo")
    files = [file for name in packages for file in sorted((REPO / name).rglob("*.py"))]
    found = {file.relative_to(REPO).as_posix(): names_in(file) for file in files}
    assert {
        name: names for name, names in found.items() if names and not name.startswith(MAY_NAME_TASKS)
    } == NAMED_ELSEWHERE
