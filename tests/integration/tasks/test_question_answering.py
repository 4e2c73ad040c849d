"""Question answering on real ranks: windows, spans, and metrics that do not depend on the ranks."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.data.squad import to_questions
from galley.rundir import RunFolder
from galley.schema import Data
from tests.integration.tasks import runs
from trainer.assets import minilm, pydoc_qa
from trainer.data.tokenize.windows import WindowSize, windows

WORDS = ["river", "mountain", "unbelievable", "São", "tokenization", "42", "x", "don't", "naïveté", "blue"]


def long_questions(count: int) -> list[dict[str, Any]]:
    """Contexts of up to 300 words; the answer is some words of it."""
    draw = random.Random(3)
    rows = []
    for number in range(count):
        words = draw.choices(WORDS, k=draw.randint(5, 300))
        first = draw.randrange(len(words))
        last = min(len(words), first + draw.randint(1, 6))
        start = len(" ".join([*words[:first], ""]))
        answer = {"text": [" ".join(words[first:last])], "answer_start": [start]}
        row = {"id": str(number), "question": "where? " * draw.randint(1, 50), "context": " ".join(words)}
        rows.append({**row, "answers": answer})
    return rows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm.folder())


def test_every_answer_lies_whole_in_a_window_and_the_labels_give_it_back(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = to_questions(enumerate(long_questions(60), 1), Data(), "here")
    size = WindowSize(128, 40)
    with caplog.at_level("INFO", logger="galley"):
        found = windows(split, tokenizer, size, tmp_path)
    assert "questions are cut to 64 tokens" in caplog.text
    held = set()
    for row in found.rows(range(len(found))):
        assert len(row["input_ids"]) <= size.length
        question = split.questions[row["question"]]
        if row["end"] > 0:
            span = slice(row["char_starts"][row["start"]], row["char_ends"][row["end"]])
            assert question.context[span] == question.answers[0]
            held.add(row["question"])
    assert held == set(range(60))
    assert len(found) > 60


def test_neighboring_windows_share_the_stride_and_leave_nothing_out(tokenizer: Any, tmp_path: Path) -> None:
    split = to_questions(enumerate(long_questions(20), 1), Data(), "here")
    found = windows(split, tokenizer, WindowSize(128, 24), tmp_path)
    rows = found.rows(range(len(found)))
    for before, after in pairwise(rows):
        starts = [row["char_starts"][row["char_starts"] >= 0] for row in (before, after)]
        if before["question"] == after["question"]:
            assert len(set(starts[0]) & set(starts[1])) == 24
            assert starts[1][24] > starts[0][-1]
        else:
            assert starts[1][0] == 0


def test_an_answer_that_no_window_holds_is_counted(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = long_questions(1)
    context = " ".join(["river"] * 100)
    rows[0] |= {"question": "?", "context": context, "answers": {"text": [context], "answer_start": [0]}}
    windows(to_questions(enumerate(rows, 1), Data(), "here"), tokenizer, WindowSize(64, 8), tmp_path)
    assert "here: 1 answers are cut by every window" in caplog.text


def test_the_best_span_is_that_of_a_search_over_all_spans() -> None:
    from galley.schema import QuestionAnswering as Settings
    from galley.schema import Recipe, Task
    from trainer.tasks.question_answering import QuestionAnswering

    task = QuestionAnswering(Recipe(task=Task("question_answering", qa=Settings(max_answer_length=3))))
    torch.manual_seed(0)
    start, end = torch.randn(8, 12), torch.randn(8, 12)
    context = torch.zeros(8, 12, dtype=torch.long)
    context[:, 4:11] = 1
    for row, (score, first, last) in enumerate(task._best_spans(start, end, context).tolist()):
        spans = [
            (float(start[row, a] + end[row, b]), a, b) for a in range(4, 11) for b in range(a, min(a + 3, 11))
        ]
        assert (pytest.approx(score), first, last) == max(spans)


def squad_dir(folder: Path) -> Path:
    """SQuAD v2.0 in small: every fourth question has no answer, the others half of their context, which
    even a model that knows nothing hits in part."""
    for split, name in (("train", "train"), ("eval", "dev")):
        rows = pydoc_qa.questions(split)[:24]
        for row in rows:
            row["answers"] = {"text": [row["context"][: len(row["context"]) // 2]], "answer_start": [0]}
        for row in rows[::4]:
            row["answers"] = {"text": [], "answer_start": []}
        runs.write_rows(folder / f"{name}.jsonl", rows)
    return folder


def test_metrics_are_the_same_on_one_two_and_three_ranks(tmp_path: Path) -> None:
    data, model = squad_dir(tmp_path / "data"), runs.tiny_bert(tmp_path / "bert")
    overrides = [
        "task=question_answering", f"data.path={data}", f"model.name={model}", "data.max_length=64",
        "task.qa.doc_stride=16", "batch.global_size=12", "train.max_steps=3", "optim.lr=1e-2",
        "train.log_every_steps=1", "eval.every_steps=null", "eval.batch_size=7",
        "checkpoint.every_steps=null", "model.dropout=0", "task.qa.no_answer_threshold=100",
    ]  # fmt: skip
    found = {}
    for world_size in (1, 2, 3):
        strategy = "single" if world_size == 1 else "ddp"
        folder = runs.train(tmp_path / str(world_size), [*overrides, f"strategy={strategy}"], world_size)
        found[world_size] = runs.last_metrics(folder)
    assert {"eval/exact_match", "eval/f1", "eval/has_answer_f1", "eval/no_answer_f1"} < set(found[1])
    assert found[2] == pytest.approx(found[1], rel=1e-5)
    assert found[3] == pytest.approx(found[1], rel=1e-5)
    assert found[1]["eval/has_answer_f1"] > 0
    log = runs.log_of(RunFolder(tmp_path / "1"))
    assert "24 questions, 6 without an answer" in log
    assert "windows of at most 64 tokens" in log
