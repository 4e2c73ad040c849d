"""The raw splits of question answering data, checked: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import logging
from dataclasses import replace

from galley.datafiles import SplitName
from galley.schema import Data
from galley.squad import QuestionSet, load_question_sets, to_questions
from trainer.assets import data_rows, is_embedded
from trainer.data.raw import HUB_SPLITS, at_most, hub_splits

log = logging.getLogger("galley")


def read_question_sets(data: Data) -> dict[SplitName, QuestionSet]:
    """Both splits, at most `data.max_samples` questions each. Raises `ConfigError`."""
    if data.path is not None:
        found = load_question_sets(data)
    elif is_embedded(data.name):
        found = {
            split: to_questions(enumerate(data_rows(data.name, split), 1), data, f"{data.name} ({split})")
            for split in HUB_SPLITS
        }
    else:
        found = {
            split: to_questions(enumerate(rows, 1), data, f"data.name={data.name} ({stored})")
            for split, (stored, rows) in hub_splits(data).items()
        }
    for split, questions in found.items():
        found[split] = _at_most(questions, data.max_samples)
        log.info("%s", found[split].describe())
    return found


def _at_most(split: QuestionSet, count: int | None) -> QuestionSet:
    kept = at_most(len(split.questions), count)
    return split if kept is None else replace(split, questions=[split.questions[index] for index in kept])
