"""Bad files of the language tasks: refused before anything starts, or repaired with a count in the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.data.roles import TEXT
from galley.data.squad import load_question_sets
from galley.errors import ConfigError
from galley.schema import Batch, Data, Model, Recipe, Task
from galley.schema.task import Distillation, QuestionAnswering, Seq2Seq
from galley.tasks import seq2seq
from trainer.data.raw import read_tables
from trainer.data.tokenize.windows import WindowSize
from trainer.data.tokenize.windows import windows as question_windows
from trainer.models.build import load_tokenizer
from trainer.tasks.language_modeling import CausalLM
from trainer.tasks.seq2seq import Seq2Seq as Seq2SeqTask

QUESTION = {"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"]}}
ROWS: dict[str, dict[str, Any]] = {
    "causal_lm": {"text": "Ada wrote it."},
    "masked_lm": {"text": "Ada wrote it."},
    "masked_lm_distillation": {"text": "Ada wrote it."},
    "seq2seq": {"source": "Who?", "target": "Ada."},
    "contrastive": {"anchor": "Who?", "positive": "Ada."},
    "token_classification": {"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
    "question_answering": QUESTION,
}
# task -> a column, the name that a file has instead, what is said about it
RENAMED = {
    "causal_lm": ("text", "txt", "has no column that is recognized as text"),
    "seq2seq": ("target", "tgt", "has no column that is recognized as target"),
    "contrastive": ("positive", "positives", "has no column that is recognized as partner"),
    "token_classification": ("tags", "tagz", "has no column that is recognized as tags"),
    "question_answering": ("context", "contexts", "has no column 'context'"),
}


def write(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]] | None = None) -> Data:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("dev", train if dev is None else dev)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(folder))


def refused(kind: str, data: Data) -> list[str]:
    """The problems that the command finds before it starts anything."""
    task = Task(kind, qa=QuestionAnswering(doc_stride=16), distillation=Distillation(teacher="T"))
    recipe = Recipe(task=task, data=data, batch=Batch(8))
    return [str(problem) for problem in recipe_problems(recipe)]


@pytest.mark.parametrize("kind", ROWS)
def test_good_rows_are_taken(tmp_path: Path, kind: str) -> None:
    assert refused(kind, write(tmp_path, [ROWS[kind]] * 3)) == []


@pytest.mark.parametrize("kind", RENAMED)
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path, kind: str) -> None:
    column, other, what = RENAMED[kind]
    row = {other if name == column else name: value for name, value in ROWS[kind].items()}
    problems = refused(kind, write(tmp_path, [ROWS[kind]], [row]))
    assert len(problems) == 1
    assert what in problems[0]
    assert problems[0].startswith(f"{tmp_path}/dev.jsonl")
    assert f"set data.columns.{'partner' if column == 'positive' else column}" in problems[0]
    assert other in problems[0].rpartition("columns: ")[2]


@pytest.mark.parametrize("kind", ROWS)
def test_an_empty_split_is_refused(tmp_path: Path, kind: str) -> None:
    problems = refused(kind, write(tmp_path, [ROWS[kind]], []))
    noun = "questions" if kind == "question_answering" else "samples"
    assert problems == [f"{tmp_path}/dev.jsonl: has no {noun}"]


@pytest.mark.parametrize("kind", ROWS)
def test_text_that_is_not_utf8_is_refused_with_its_line_and_byte(tmp_path: Path, kind: str) -> None:
    data = write(tmp_path, [ROWS[kind]] * 3)
    file = tmp_path / "train.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], lines[1].replace(b"Ada", b"Ad\xe4"), *lines[2:]]))
    (problem,) = refused(kind, data)
    assert problem.startswith(f"{file}:2: is not UTF-8: byte 0xe4 at offset ")
    assert "iconv" in problem


def test_wrong_values_are_named_by_line_and_the_rest_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": None}, {"text": "good"}, *[{"text": 7}] * 6]
    problems = refused("causal_lm", write(tmp_path, rows, [{"text": "good"}]))
    assert problems[0] == f"{tmp_path}/train.jsonl:1: column 'text': None is not text"
    assert problems[-1] == f"{tmp_path}/train.jsonl: 2 more such problems"
    assert len(problems) == 6


def test_answers_outside_their_context_are_refused_and_shifted_ones_moved_and_counted(
    tmp_path: Path,
) -> None:
    outside = {**QUESTION, "answers": {"text": ["Bob"], "answer_start": [0]}}
    (problem,) = refused("question_answering", write(tmp_path, [QUESTION, outside], [QUESTION]))
    assert problem == f"{tmp_path}/train.jsonl:2: answer 'Bob' is not in its context"
    shifted = {**QUESTION, "id": "2", "answers": {"text": ["wrote"], "answer_start": [6]}}
    found = load_question_sets(write(tmp_path, [QUESTION, shifted], [QUESTION]))["train"]
    assert found.questions[1].spans == ((4, 9),)
    assert found.describe() == f"{tmp_path}/train.jsonl: 2 questions, 1 answers moved to where their text is"


def test_more_tokens_than_the_model_has_positions_for_are_refused(tmp_path: Path) -> None:
    model = Model(
        architecture="gpt2", tokenizer="characters", config={"n_positions": 8, "n_embd": 8, "n_head": 1}
    )
    data = write(tmp_path / "data", [ROWS["causal_lm"]])
    task = CausalLM(Recipe(model=model, data=Data(path=data.path, max_length=9), task=Task("causal_lm")))
    task._prepare(read_tables(task.recipe.data, [TEXT])["train"])
    with pytest.raises(ConfigError) as caught:
        task.model()
    assert str(caught.value) == "data.max_length=9: gpt2 has positions for 8 tokens\n    at most 8"


def test_long_questions_and_answers_are_cut_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "Ada " * 40
    rows = [
        {**QUESTION, "question": long, "context": long},
        {**QUESTION, "id": "2", "context": long, "answers": {"text": [long.strip()]}},
    ]
    data = Data(path=write(tmp_path, rows).path, max_length=32, cache_dir=str(tmp_path / "cache"))
    recipe = Recipe(data=data, task=Task("question_answering"))
    questions = load_question_sets(data)["train"]
    with caplog.at_level(logging.WARNING, "galley"):
        question_windows(questions, load_tokenizer(recipe), WindowSize(32, 4), tmp_path)
    assert caplog.messages == [
        f"{questions.where}: 1 questions are cut to 16 tokens",
        f"{questions.where}: 1 answers are cut by every window: lengthen task.qa.doc_stride",
    ]


def test_long_sources_and_targets_are_truncated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "Ada " * 40
    rows = [{"source": long, "target": "Ada"}, {"source": long, "target": long}]
    data = Data(path=write(tmp_path, rows).path, max_length=32, cache_dir=str(tmp_path / "cache"))
    settings = Task("seq2seq", seq2seq=Seq2Seq(max_target_length=16))
    task = Seq2SeqTask(Recipe(data=data, task=settings))
    task.tokenizer = load_tokenizer(task.recipe)
    with caplog.at_level(logging.WARNING, "galley"):
        found = task._stored(read_tables(data, seq2seq.TASK.roles)["train"], tmp_path).rows([0, 1])
    assert [len(row["input_ids"]) for row in found] == [32, 32]
    assert [len(row["labels"]) for row in found] == [3, 16]
    assert caplog.messages == [
        f"{tmp_path}/train.jsonl: 2 sources reach 32 tokens, where they are truncated",
        f"{tmp_path}/train.jsonl: 1 targets reach 16 tokens, where they are truncated",
    ]
