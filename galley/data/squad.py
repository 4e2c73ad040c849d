"""Question answering data: SQuAD's nested json and flat files, checked and repaired, without torch.

A flat file (csv, tsv, json, jsonl, parquet) has the columns `question`, `context`, and `answers` as
the hub's SQuAD has it: {"text": [...], "answer_start": [...]}, in csv and tsv as that json; `id` is
optional. A question whose lists are empty has no answer in its context (SQuAD v2.0).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from galley.data.files import Row, SplitName, find_files, read_rows, shortened
from galley.data.local import ROWS_BEFORE_LAUNCH, local_problems
from galley.data.roles import Need, data_folder, splits_read
from galley.data.sampling import Classes
from galley.errors import DataError, Problem, nearest, valid_values
from galley.schema import Data

LEVELS = ("paragraphs", "qas")
# Tokens of a question; as BERT's own training on SQuAD.
MAX_QUESTION_TOKENS = 64
# Tokens around question and context: three in BERT, four in RoBERTa.
MAX_SPECIAL_TOKENS = 4


def question_limit(window: int) -> int:
    """Tokens of a question in a window of so many tokens; longer questions are cut."""
    return min(MAX_QUESTION_TOKENS, window // 2)


def longest_stride(window: int) -> int:
    """The most that two neighboring windows may share, so that the next one always goes on."""
    return window - question_limit(window) - MAX_SPECIAL_TOKENS - 1


@dataclass(frozen=True)
class Question:
    """One question. `spans` are (start, end) characters of `context`, as many as `answers`."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class QuestionSet:
    """One split, read and checked.

    Attributes:
        where: the file, for messages.
        moved: answers that were not at their offset, and were found elsewhere in their context.
        complete: whether all rows were read, not only the first.
    """

    questions: list[Question]
    where: str
    moved: int = 0
    complete: bool = True

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def classes(self) -> Classes:
        """Questions with an answer, and those without."""
        return [(bool(question.answers),) for question in self.questions]

    def take(self, indices: Sequence[int], where: str | None = None) -> QuestionSet:
        """The questions at `indices`, in that order."""
        questions = [self.questions[index] for index in indices]
        return replace(self, questions=questions, where=where or self.where)

    @property
    def num_unanswerable(self) -> int:
        return sum(not question.answers for question in self.questions)

    def describe(self) -> str:
        """For the log."""
        parts = [f"{self.where}: {len(self.questions)} questions"]
        parts += [f"{self.num_unanswerable} without an answer"] if self.num_unanswerable else []
        parts += [f"{self.moved} answers moved to where their text is"] if self.moved else []
        return ", ".join(parts)


@dataclass(frozen=True)
class QuestionColumns:
    """The columns in use."""

    question: str = "question"
    context: str = "context"
    answers: str = "answers"

    @classmethod
    def of(cls, data: Data) -> QuestionColumns:
        """As `data.columns` names them. Raises `DataError` for a name that is not read."""
        valid = [field.name for field in fields(cls)]
        problems = [
            Problem(
                f"data.columns.{name}", f"question answering reads no '{name}'", valid_values(name, valid)
            )
            for name in data.columns
            if name not in valid
        ]
        if problems:
            raise DataError(problems)
        return cls(**data.columns)


def check_questions(data: Data, need: Need = "both") -> list[Problem]:
    """What is wrong with the local files of the data, as far as they are read before a launch."""
    return local_problems(
        data, lambda source: load_question_sets(source, ROWS_BEFORE_LAUNCH, need), joined_questions
    )


def load_question_sets(
    data: Data, limit: int | None = None, need: Need = "both"
) -> dict[SplitName, QuestionSet]:
    """The splits of `data.path` that are read, of each file the first `limit` rows.

    Raises `DataError` with all problems.
    """
    folder = data_folder(data)
    found: dict[SplitName, QuestionSet] = {}
    problems: list[Problem] = []
    for name in splits_read(data, need):
        try:
            parts = [_load(path, data, limit) for path in find_files(folder, name)]
            found[name] = joined_questions(parts)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found


def _load(path: Path, data: Data, limit: int | None) -> QuestionSet:
    rows = list(islice(read_rows(path), limit))
    complete = limit is None or len(rows) < limit
    return replace(to_questions(rows, data, str(path)), complete=complete)


def joined_questions(parts: Sequence[QuestionSet]) -> QuestionSet:
    """The questions of all parts; where two parts have an id in common, ids get their part's number."""
    if len(parts) == 1:
        return parts[0]
    ids = [question.id for part in parts for question in part.questions]
    unique = len(set(ids)) == len(ids)
    questions = [
        question if unique else replace(question, id=f"{number}:{question.id}")
        for number, part in enumerate(parts)
        for question in part.questions
    ]
    where = f"{parts[0].where} and {len(parts) - 1} more"
    moved = sum(part.moved for part in parts)
    return QuestionSet(questions, where, moved, all(part.complete for part in parts))


def to_questions(rows: Iterable[Row], data: Data, where: str) -> QuestionSet:
    """Rows of a flat file, or the articles of a nested one.

    An answer that is not at its offset is moved to the place nearest to it where its text is.
    Raises `DataError` for answers that are not in their context at all, and for missing columns.
    """
    columns = QuestionColumns.of(data)
    questions, problems, moved = list[Question](), list[Problem](), 0
    for place, record in _flattened(rows, where):
        lacking = {role: name for role, name in vars(columns).items() if name not in record}
        if lacking:
            raise DataError([_no_column(place, *named, list(record)) for named in lacking.items()])
        try:
            question, repaired = _question(record, columns, f"{len(questions)}")
            questions.append(question)
            moved += repaired
        except ValueError as error:
            problems.append(Problem(place, str(error)))
    if problems:
        raise DataError(shortened(problems, where))
    if not questions:
        raise DataError(Problem(where, "has no questions"))
    twice = [key for key, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise DataError(Problem(where, f"{len(twice)} ids stand for several questions: {twice[0]} …"))
    return QuestionSet(questions, where, moved)


def _no_column(where: str, role: str, name: str, header: Sequence[str]) -> Problem:
    hint = f"{nearest(name, header)} set data.columns.{role}; columns: {', '.join(header)}"
    return Problem(where, f"has no column '{name}'", hint.strip())


def _flattened(rows: Iterable[Row], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place for messages, record) of every question."""
    for line, row in rows:
        if LEVELS[0] not in row:
            yield f"{where}:{line}", row
            continue
        for number, paragraph in enumerate(_members(row, LEVELS[0], f"{where}: article {line}"), 1):
            place = f"{where}: article {line}, paragraph {number}"
            for qa in _members(paragraph, LEVELS[1], place):
                yield f"{place}, question {qa.get('id', '?')}", _from_nested(qa, paragraph)


def _members(parent: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = parent.get(name)
    if not isinstance(found, list) or not all(isinstance(member, dict) for member in found):
        raise DataError(Problem(where, f"'{name}' is not a list of objects", "as in SQuAD's own files"))
    return found


def _from_nested(qa: Mapping[str, Any], paragraph: Mapping[str, Any]) -> dict[str, Any]:
    record = {**qa, "context": paragraph.get("context")}
    if qa.get("is_impossible"):  # its `plausible_answers` are wrong ones
        record["answers"] = []
    if isinstance(record.get("answers"), list):
        answers = [answer for answer in record["answers"] if isinstance(answer, dict)]
        texts, starts = ([answer.get(name) for answer in answers] for name in ("text", "answer_start"))
        record["answers"] = {"text": texts, "answer_start": starts}
    return record


def _question(record: Mapping[str, Any], columns: QuestionColumns, number: str) -> tuple[Question, int]:
    """The question, and how many of its answers were moved. Raises `ValueError`."""
    question, context = record[columns.question], record[columns.context]
    for name, value in ((columns.question, question), (columns.context, context)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"column '{name}': {value!r} is not text")
    texts, starts = _answers(record[columns.answers], columns.answers)
    spans = [_locate(text, start, context) for text, start in zip(texts, starts, strict=True)]
    moved = sum(start is not None and span[0] != start for span, start in zip(spans, starts, strict=True))
    key = str(record.get("id") or number)
    return Question(
        key, question.strip(), context, tuple(context[a:b] for a, b in spans), tuple(spans)
    ), moved


def _answers(value: Any, column: str) -> tuple[list[str], list[int | None]]:
    """Texts and offsets; an offset that the file does not give is null."""
    shape = f'column \'{column}\': {str(value)[:60]!r} is not {{"text": […], "answer_start": […]}}'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(shape) from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), list | tuple):
        raise ValueError(shape)
    texts = list(value["text"])
    starts = list(value.get("answer_start") or [None] * len(texts))
    if len(starts) != len(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(shape)
    if not all(start is None or (isinstance(start, int) and start >= 0) for start in starts):
        raise ValueError(shape)
    return texts, starts


def _locate(text: str, start: int | None, context: str) -> tuple[int, int]:
    """Where the answer is: at its offset, else the nearest place that holds its text."""
    if start is not None and text and context.startswith(text, start):
        return start, start + len(text)
    wanted = text.strip()
    places, place = list[int](), context.find(wanted) if wanted else -1
    while place >= 0:
        places.append(place)
        place = context.find(wanted, place + 1)
    if not places:
        raise ValueError(f"answer {text!r} is not in its context")
    best = min(places, key=lambda found: abs(found - (start or 0)))
    return best, best + len(wanted)
