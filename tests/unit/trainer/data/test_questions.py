"""Question answering files: both shapes, repairs with their counts, refusals that name the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.data.squad import load_question_sets, to_questions
from galley.errors import DataError
from galley.schema import Data
from trainer.assets import pydoc_qa

CONTEXT = "Ada wrote it. Bob read it, and Ada slept."


def flat(text: str, start: int | None, **more: Any) -> dict[str, Any]:
    answers = {"text": [text], "answer_start": [start]} if start is not None else {"text": [text]}
    return {"id": "q", "question": "Who?", "context": CONTEXT, "answers": answers, **more}


def refused(rows: list[dict[str, Any]], data: Data | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        to_questions(enumerate(rows, 1), data or Data(), "dev.jsonl")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "start", "span", "moved"),
    [
        ("Bob", 14, (14, 17), 0),
        ("Bob", 10, (14, 17), 1),
        ("Ada", 25, (31, 34), 1),  # the nearest of two places
        (" Bob ", 10, (14, 17), 1),
        ("Ada", None, (0, 3), 0),  # no offset was given: the first place, and nothing was moved
    ],
)
def test_an_answer_is_where_its_text_is(
    text: str, start: int | None, span: tuple[int, int], moved: int
) -> None:
    found = to_questions([(1, flat(text, start))], Data(), "dev.jsonl")
    assert found.questions[0].spans == (span,)
    assert found.questions[0].answers == (text.strip(),)
    assert found.moved == moved
    assert ("1 answers moved" in found.describe()) == bool(moved)


def test_an_answer_outside_its_context_is_refused_with_its_line_and_all_such_are_counted() -> None:
    problems = refused([flat("Bob", 14), *[flat("Eve", 3)] * 7])
    assert problems[0] == "dev.jsonl:2: answer 'Eve' is not in its context"
    assert len(problems) == 6
    assert problems[-1] == "dev.jsonl: 2 more such problems"


def test_wrong_shapes_are_refused() -> None:
    assert "is not text" in refused([flat("Bob", 14, question=" ")])[0]
    assert 'is not {"text"' in refused([flat("Bob", 14, answers="Bob")])[0]
    assert 'is not {"text"' in refused([flat("Bob", 14, answers={"text": ["a"], "answer_start": [1, 2]})])[0]
    assert "has no column 'context'" in refused([{"question": "Who?", "contexts": "x", "answers": {}}])[0]
    assert "did you mean 'contexts'?" in refused([{"question": "Who?", "contexts": "x", "answers": {}}])[0]
    assert "reads no 'quesion'" in refused([flat("Bob", 14)], Data(columns={"quesion": "q"}))[0]
    assert "'qas' is not a list" in refused([{"paragraphs": [{"context": "x"}]}])[0]
    assert "has no questions" in refused([])[0]
    assert "1 ids stand for several questions: q" in refused([flat("Bob", 14)] * 2)[0]


def test_nested_and_flat_files_hold_the_same(tmp_path: Path) -> None:
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Bob", "answer_start": 14}]},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True,
         "plausible_answers": [{"text": "Ada", "answer_start": 0}]},
    ]  # fmt: skip
    nested = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    (tmp_path / "train.json").write_text(json.dumps(nested))
    rows = [flat("Bob", 14, id="1"), flat("", 0, id="2", question="Why?")]
    rows[1]["answers"] = {"text": [], "answer_start": []}
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = load_question_sets(Data(path=str(tmp_path)))
    assert found["train"].questions == found["eval"].questions
    assert "2 questions, 1 without an answer" in found["train"].describe()


def test_columns_of_other_names(tmp_path: Path) -> None:
    row = {"q": "Who?", "passage": CONTEXT, "a": {"text": ["Bob"], "answer_start": [14]}}
    data = Data(columns={"question": "q", "context": "passage", "answers": "a"})
    assert to_questions([(1, row)], data, "x").questions[0].answers == ("Bob",)


def test_real_questions_are_all_where_they_say(shared_dir: Path) -> None:
    nested = json.loads((shared_dir / "data/squad/xquad.en.json").read_text())
    found = to_questions(enumerate(nested["data"], 1), Data(), "xquad")
    assert len(found.questions) == 1190
    assert found.moved == 0


def test_the_embedded_set_is_sound_and_keeps_its_splits_apart() -> None:
    contexts = {}
    for split in ("train", "eval"):
        records = pydoc_qa.questions(split)
        found = to_questions(enumerate(records, 1), Data(), split)
        assert found.moved == 0
        assert len({question.id for question in found.questions}) == len(records) >= 100
        assert all(q.context.count(q.answers[0]) == 1 for q in found.questions)
        contexts[split] = {question.context for question in found.questions}
    assert not contexts["train"] & contexts["eval"]
