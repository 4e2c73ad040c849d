"""The span of a context that answers a question, or that there is none."""

from __future__ import annotations

from collections.abc import Iterator

from galley.data.squad import check_questions, longest_stride, question_limit
from galley.errors import Problem
from galley.metrics import LOSS, PERCENT
from galley.schema import Recipe
from galley.tasks.base import TaskDescription


def _windows(recipe: Recipe) -> Iterator[Problem]:
    """Each window of a context must go beyond the one before it."""
    length, stride = recipe.data.max_length, recipe.task.qa.doc_stride
    if stride > longest_stride(length):
        room = f"max_length {length} - question {question_limit(length)} - special tokens"
        what = f"doc_stride {stride} leaves a window of {room} nothing new"
        yield Problem("task.qa.doc_stride", what, f"valid: at most {longest_stride(length)}")


TASK = TaskDescription(
    name="question_answering",
    implementation="trainer.tasks.question_answering:QuestionAnswering",
    metrics={
        "eval/f1": PERCENT, "eval/exact_match": PERCENT, "eval/has_answer_f1": PERCENT,
        "eval/no_answer_f1": PERCENT, "eval/loss": LOSS,
    },
    check=check_questions,
    tensor_parallel=True,
    hub_task="question-answering",
    rules=_windows,
)  # fmt: skip
