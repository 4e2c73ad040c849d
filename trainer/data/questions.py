"""The raw splits of question answering data, checked: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import logging

from galley.datafiles import SplitName
from galley.schema import Data
from galley.squad import QuestionSet, joined_questions, load_question_sets, to_questions
from galley.tables import splits_read
from trainer.assets import data_rows, is_embedded
from trainer.data.raw import gathered, hub_splits, limited

log = logging.getLogger("galley")


def read_question_sets(data: Data, only_eval: bool = False) -> dict[SplitName, QuestionSet]:
    """The splits that are read, at most `sample_limit` questions each. Raises `ConfigError`."""
    found = limited(data, gathered(data, lambda source: _read(source, only_eval), joined_questions))
    for questions in found.values():
        log.info("%s", questions.describe())
    return found


def _read(data: Data, only_eval: bool) -> dict[SplitName, QuestionSet]:
    if data.path is not None:
        return load_question_sets(data, only_eval=only_eval)
    if is_embedded(data.name):
        return {
            split: to_questions(enumerate(data_rows(data.name, split), 1), data, f"{data.name} ({split})")
            for split in splits_read(data, only_eval)
        }
    return {
        split: to_questions(enumerate(rows, 1), data, f"data.name={data.name} ({stored})")
        for split, (stored, rows) in hub_splits(data, only_eval=only_eval).items()
    }
